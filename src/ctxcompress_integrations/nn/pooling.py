"""Mean pooling of neighbouring states and the map into a reader (the idea of ARC-Encoder, arXiv:2510.20535)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def mean_groups(states: Tensor, lengths: Tensor, ratio: int) -> Tensor:
    """Means over groups of ``ratio`` neighbours; a row's last group may be shorter, and padding never counts.

    Args:
        states: ``[b, n, d]``, padded on the right.
        lengths: int64 ``[b]``.
        ratio: states per group.

    Returns:
        ``[b, m, d]`` with ``m = ceil(n / ratio)``; a row of ``l`` states has ``ceil(l / ratio)`` groups, zero follows.
    """
    n = states.shape[1]
    exists = (torch.arange(n, device=states.device) < lengths[:, None]).unsqueeze(-1)
    missing = -n % ratio
    kept = nn.functional.pad(states.masked_fill(~exists, 0.0), (0, 0, 0, missing))
    counts = nn.functional.pad(exists, (0, 0, 0, missing)).view(len(states), -1, ratio, 1).sum(2)
    return kept.view(len(states), -1, ratio, states.shape[-1]).sum(2) / counts.clamp(min=1)


class Projector(nn.Module):
    """From the width of an encoder to that of a reader: one linear map, or two through a middle without activation.

    Args:
        n_in, n_out: widths of the encoder and of the reader.
        n_middle: width between two maps; None for a single map. A narrow middle costs few parameters for a wide reader.

    Raises:
        ValueError: a width below 1.
    """

    def __init__(self, n_in: int, n_out: int, n_middle: int | None = None) -> None:
        super().__init__()
        if min(n_in, n_out, 1 if n_middle is None else n_middle) < 1:
            raise ValueError(f"widths must be >= 1, got {n_in}, {n_out} and {n_middle}")
        self.widths = [n_in, n_out] if n_middle is None else [n_in, n_middle, n_out]
        self.maps = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(self.widths))

    def forward(self, vectors: Tensor) -> Tensor:
        """``[..., n_in]`` to ``[..., n_out]``, in the dtype of the maps."""
        vectors = vectors.to(next(self.parameters()).dtype)
        for linear in self.maps:
            vectors = linear(vectors)
        return vectors
