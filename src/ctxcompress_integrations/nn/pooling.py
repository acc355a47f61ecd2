"""Mean pooling of neighbouring states and the map into a reader (the idea of ARC-Encoder, arXiv:2510.20535)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mean_groups(states: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Means over groups of neighbouring states.

    Args:
        states: ``[b, n, d]``, padded on the right.
        sizes: states of each group of each row, as many as the row has states in all; what follows never counts.

    Returns:
        ``[m, d]``, one vector per group, row after row.
    """
    packed = torch.cat([row[: sum(of_row)] for row, of_row in zip(states, sizes, strict=True)])
    lengths = torch.tensor([size for of_row in sizes for size in of_row], device=states.device)
    return torch.segment_reduce(packed, "mean", lengths=lengths, axis=0)


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
