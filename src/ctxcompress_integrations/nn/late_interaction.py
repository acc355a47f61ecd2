"""Late interaction with learned weights (ColBERT, arXiv:2004.12832): query and passage are encoded apart, a sentence is
worth the weighted sum over query tokens of their best match in it, plus the same for the whole passage with its title,
plus the cosine of two mean states as in retrieval (Sentence-BERT, arXiv:1908.10084).

The passage never sees the query, so its vectors can be kept and used for every later question.
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
        pooled: the mean state as a unit vector, float32 ``[d]``; None where passages are not compared as wholes.
        shares: float32 ``[2]``, how much the best matches in the whole passage, and the cosine of the mean states,
            count beside the matches in the sentence.
    """

    vectors: Tensor
    weights: Tensor
    pooled: Tensor | None = None
    shares: Tensor | None = None


class LateInteraction(nn.Module):
    """Encoder, two projections, the weights of query tokens and the shares of the passage in a sentence's worth.

    Args:
        encoder: shared by queries and passages.
        width: its ``d``.
        n_dims: ``p``, the width of the vectors that are compared and kept.
    """

    def __init__(self, encoder: PackedEncoder, *, width: int, n_dims: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.query = nn.Linear(width, n_dims, bias=False)
        self.passage = nn.Linear(width, n_dims, bias=False)
        self.importance = nn.Linear(width, 1, bias=False)
        self.shares = nn.Linear(width, 2)
        nn.init.orthogonal_(self.query.weight)
        nn.init.zeros_(self.importance.weight)
        nn.init.zeros_(self.shares.weight)
        nn.init.constant_(self.shares.bias, math.log(math.expm1(0.5)))  # both start at one half
        with torch.no_grad():
            self.passage.weight.copy_(self.query.weight)

    def query_vectors(self, states: Tensor) -> QueryVectors:
        """States ``[q, d]`` of one query. A question for one fact leans on the right passage more than one that must
        be answered from several: the query itself decides the shares.
        """
        states = states.float()
        weights, shares = self.importance(states)[:, 0].softmax(dim=0), F.softplus(self.shares(states.mean(dim=0)))
        return QueryVectors(F.normalize(self.query(states), dim=-1), weights, mean_vector(states), shares)

    def passage_vectors(self, states: Tensor) -> Tensor:
        """States ``[n, d]`` -> unit vectors float32 ``[n, p]``."""
        return F.normalize(self.passage(states.float()), dim=-1)


def mean_vector(states: Tensor) -> Tensor:
    """States ``[n, d]`` of one text, special tokens included -> unit vector float32 ``[d]``; zeros without a token."""
    return F.normalize(states.float().sum(dim=0) / max(1, len(states)), dim=-1)


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
