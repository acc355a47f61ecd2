"""Late interaction with learned weights (ColBERT, arXiv:2004.12832): query and passage are encoded apart, a sentence is
worth the weighted sum over query tokens of their best match in it, plus the same for the whole passage.

The passage never sees the query, so its token vectors can be kept and used for every later question.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxcompress_integrations.nn.packed_encoder import PackedEncoder


class QueryVectors(NamedTuple):
    """One query.

    Attributes:
        vectors: unit vectors float32 ``[q, p]``, special tokens included; the first is the trigger that points at the
            answer's tokens.
        weights: float32 ``[q]``, sum 1.
    """

    vectors: Tensor
    weights: Tensor


class LateInteraction(nn.Module):
    """Encoder, two projections and the weights of query tokens.

    Args:
        encoder: shared by queries and passages.
        width: its ``d``.
        n_dims: ``p``, the width of the vectors that are compared and kept.

    Attributes:
        passage_share: how much the whole passage's match counts beside the sentence's.
    """

    def __init__(self, encoder: PackedEncoder, *, width: int, n_dims: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.query = nn.Linear(width, n_dims, bias=False)
        self.passage = nn.Linear(width, n_dims, bias=False)
        self.importance = nn.Linear(width, 1, bias=False)
        self.passage_share = nn.Parameter(torch.tensor(0.5))
        nn.init.orthogonal_(self.query.weight)
        nn.init.zeros_(self.importance.weight)
        with torch.no_grad():
            self.passage.weight.copy_(self.query.weight)

    def query_vectors(self, states: Tensor) -> QueryVectors:
        """States ``[q, d]`` of one query."""
        states = states.float()
        return QueryVectors(F.normalize(self.query(states), dim=-1), self.importance(states)[:, 0].softmax(dim=0))

    def passage_vectors(self, states: Tensor) -> Tensor:
        """States ``[n, d]`` -> unit vectors float32 ``[n, p]``."""
        return F.normalize(self.passage(states.float()), dim=-1)


class TrainingHead(nn.Module):
    """What only training needs: the scales that turn cosines into logits, and where a probability of one half lies."""

    def __init__(self) -> None:
        super().__init__()
        self.sentence_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.token_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.middle = nn.Parameter(torch.tensor(0.6))


def segment_max(rows: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Maximum of each row over the columns of each segment.

    Args:
        rows: ``[q, n]``, values >= -1.
        segment: int64 ``[n]``.
        n_segments: ``s``; a segment without a column gets -1.

    Returns:
        ``[q, s]``.
    """
    lowest = rows.new_full((len(rows), n_segments), -1.0)
    return lowest.scatter_reduce(1, segment.expand_as(rows), rows, "amax", include_self=True)
