"""The trained part of the ``mini`` scorer: two linear maps, one for query and one for passage vectors.

File format: safetensors with ``query`` and ``passage`` ``[p, d]`` and the metadata ``format``, ``version`` and ``base``
(the encoder's registry name, or the name it was loaded by). Nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError

FORMAT = "ctxcompress-projection"
VERSION = "1"


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionHead:
    """Maps unit vectors ``[n, d]`` to unit vectors ``[n, p]``.

    Attributes:
        query, passage: float32 ``[p, d]``.
        base: the encoder that they were trained on.
    """

    query: Tensor
    passage: Tensor
    base: str

    def __call__(self, vectors: Tensor, *, is_query: bool) -> Tensor:
        projected = vectors @ (self.query if is_query else self.passage).T
        return torch.nn.functional.normalize(projected, dim=-1)

    @classmethod
    def load(cls, path: Path, *, base: str) -> ProjectionHead:
        """Read a head and check that it fits.

        Raises:
            WeightsMismatchError: no such file, another format or version, another base model, wrong shapes.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise WeightsMismatchError(f"{path} is no readable safetensors file ({error}); train it again") from error
        if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
            raise WeightsMismatchError(
                f"{path} has format {metadata.get('format')!r} version {metadata.get('version')!r}; this release reads "
                f"{FORMAT!r} version {VERSION!r}"
            )
        trained_on = metadata.get("base")
        if trained_on != base:
            raise WeightsMismatchError(f"{path} was trained on {trained_on!r}, not {base!r}: pass model={trained_on!r}")
        query, passage = tensors.get("query"), tensors.get("passage")
        if query is None or passage is None or query.dim() != 2 or query.shape != passage.shape:
            raise WeightsMismatchError(f"{path} needs 'query' and 'passage' of one shape [p, d], has {sorted(tensors)}")
        return cls(query.float(), passage.float(), base)
