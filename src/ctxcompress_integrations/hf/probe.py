"""The trained part of the ``probe`` scorer: one weight per attention head of a decoder LM, and what features look like.

File format: safetensors with ``weight``, ``mean``, ``scale`` ``[f]`` and ``bias`` ``[1]``, where ``f`` counts heads,
layer by layer, and the metadata ``format``, ``version``, ``base`` (the name that the LM was loaded by), ``layers``,
``heads`` (of one layer) and ``template`` (of the prompt; empty for the LM's own). Nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.weights_file import WeightsFormat

FORMAT = WeightsFormat("ctxcompress-probe", "1", cure="train it again")
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeHead:
    """Logistic regression over heads: features ``[..., f]`` to log-odds ``[...]``.

    Attributes:
        weight: float32 ``[f]``, of standardised features.
        bias: float32 ``[1]``.
        mean, scale: float32 ``[f]``, of the features it was trained on.
        base: the decoder LM that it was trained on.
        layers, heads: of that LM; ``f`` is their product.
        template: the prompt it was trained with, as :class:`~ctxcompress_integrations.scorers.probe.AllHeads` takes it.
    """

    weight: Floats
    bias: Floats
    mean: Floats
    scale: Floats
    base: str
    layers: int
    heads: int
    template: str | None = None

    def __call__(self, features: Floats) -> Floats:
        weight = self.weight / self.scale
        log_odds: Floats = (features @ weight + (self.bias - self.mean @ weight)).astype(np.float32)
        return log_odds

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all."""
        names = {"base": self.base, "layers": str(self.layers), "heads": str(self.heads)}
        tensors = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "scale": self.scale}
        contiguous = {name: torch.from_numpy(np.array(t, np.float32, order="C")) for name, t in tensors.items()}
        FORMAT.write(path, contiguous, {**names, "template": self.template or ""})

    @classmethod
    def load(cls, path: Path, *, base: str) -> ProbeHead:
        """Read a head and check that it fits.

        Raises:
            WeightsMismatchError: no such file, another format or version, another base model, wrong shapes or values.
        """
        metadata, held = FORMAT.read(path)
        tensors = {name: tensor.float().numpy() for name, tensor in held.items()}
        trained_on = metadata.get("base")
        if trained_on != base:
            raise WeightsMismatchError(f"{path} was trained on {trained_on!r}, not {base!r}: pass model={trained_on!r}")
        n_layers, n_heads = (_count(metadata.get(name)) for name in ("layers", "heads"))
        n_features = n_layers * n_heads
        wanted = {"weight": (n_features,), "bias": (1,), "mean": (n_features,), "scale": (n_features,)}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if not n_features or found != wanted:
            raise WeightsMismatchError(
                f"{path} says {metadata.get('layers')} layers of {metadata.get('heads')} heads, which makes the "
                f"tensors {wanted}, and has {found}; train it again"
            )
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()) or not (tensors["scale"] > 0).all():
            raise WeightsMismatchError(
                f"{path} is damaged: values that are no numbers, or a scale <= 0; train it again"
            )
        return cls(**tensors, base=base, layers=n_layers, heads=n_heads, template=metadata.get("template") or None)


def _count(value: str | None) -> int:
    """0 for what is no number of layers or heads."""
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 8 else 0
