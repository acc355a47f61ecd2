"""Low-rank updates (LoRA, arXiv:2106.09685) that a frozen model wears inside a ``with`` and nowhere else.

The model is not rebuilt around them: forward hooks add ``up(down(x)) * scale`` to the outputs of chosen linear layers,
and go again. What else the model carries, another adapter for the reader say, is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(nn.Module):
    """One pair of matrices per linear layer of another model.

    Args:
        shapes: ``(inputs, outputs)`` of each layer, by its dotted name in that model.
        rank: of the updates.
        alpha: LoRA's; the updates are multiplied by ``alpha / rank``.

    Raises:
        ValueError: a rank below 1, or no layer at all.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], *, rank: int, alpha: float) -> None:
        super().__init__()
        if rank < 1 or not shapes:
            raise ValueError(f"low-rank updates need rank >= 1 and at least one layer, got {rank} and {len(shapes)}")
        self.rank, self.alpha, self.shapes = rank, float(alpha), dict(shapes)
        # a parameter's name must not contain a dot
        self.down = nn.ParameterDict({_key(name): torch.empty(rank, n_in) for name, (n_in, _) in shapes.items()})
        self.up = nn.ParameterDict({_key(name): torch.zeros(n_out, rank) for name, (_, n_out) in shapes.items()})
        for matrix in self.down.values():
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    @classmethod
    def from_matrices(cls, matrices: Mapping[str, tuple[Tensor, Tensor]], *, alpha: float) -> Self:
        """From ``(down [r, in], up [out, r])`` of each layer, all of one rank.

        Raises:
            ValueError: matrices of different ranks.
        """
        ranks = {rank for down, up in matrices.values() for rank in (down.shape[0], up.shape[1])}
        if len(ranks) != 1:
            raise ValueError(f"low-rank updates of one rank are needed, got {sorted(ranks)}")
        rank = ranks.pop()
        shapes = {name: (down.shape[1], up.shape[0]) for name, (down, up) in matrices.items()}
        made = cls(shapes, rank=rank, alpha=alpha)
        for name, (down, up) in matrices.items():
            made.down[_key(name)], made.up[_key(name)] = nn.Parameter(down.clone()), nn.Parameter(up.clone())
        return made

    @contextmanager
    def worn_by(self, model: nn.Module) -> Iterator[None]:
        """Forwards of ``model`` inside the block include the updates, and have gradients.

        The backward of a checkpointed forward runs it again: it belongs inside the block too.

        Raises:
            KeyError: a layer that ``model`` does not have.
        """
        layers = dict(model.named_modules())
        if missing := [name for name in self.shapes if name not in layers]:
            raise KeyError(f"the model has no layer {missing[0]!r} to wear a low-rank update on")
        handles = [layers[name].register_forward_hook(self._hook(name)) for name in self.shapes]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        down, up = self.down[_key(name)], self.up[_key(name)]

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            wide: Tensor = F.linear(F.linear(inputs[0].to(down.dtype), down), up) * (self.alpha / self.rank)
            return output + wide.to(output.dtype)

        return add


def linear_layers(model: nn.Module, kinds: set[str]) -> dict[str, tuple[int, int]]:
    """``(inputs, outputs)`` of every linear layer whose last name is one of ``kinds``, by its dotted name."""
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in kinds and hasattr(layer, "in_features")
    }


def _key(name: str) -> str:
    return name.replace(".", "/")
