"""What the ways to compute Λ-attention share: arguments, logits of grouped heads, one softmax over several key sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ctxcompress_integrations.nn.lambda_mask import LambdaShape, Starts


class Frame(NamedTuple):
    """What all queries of one forward share.

    Attributes:
        shape: sizes of the Λ.
        start: tokens seen before: the column of the first query.
        starts: where rows begin.
        scaling: factor on the dot products.
        slopes: ALiBi's, float32 ``[h]``; None for rotary models.
    """

    shape: LambdaShape
    start: int
    starts: Starts
    scaling: float
    slopes: Tensor | None = None

    def is_plain(self, n_new: int) -> bool:
        """Whether ``n_new`` tokens are all there is and all local: then attention is the model's own."""
        is_first = self.start == 0 and self.starts.first is None
        return is_first and n_new <= self.shape.n_local and self.slopes is None


class Sinks(NamedTuple):
    """Keys and values of each row's first real tokens, both ``[b, h_kv, n_global, d]``; a rotary model's keys stand
    ``n_local`` before position 0.
    """

    key: Tensor
    value: Tensor


class Middle(NamedTuple):
    """The last query ``[b, h, 1, d]`` at the middle's distance, all tokens so far (unrotated keys and values, both
    ``[b, h_kv, n, d]``), and how many of them it looks at.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    k: int


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, halves paired: x ``[b, h, n, d]``, phases broadcastable to ``[b, n, d]``."""
    one, other = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-other, one], dim=-1) * sin.unsqueeze(1)


def grouped_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """``[b, h_kv, g, q, k]`` of queries ``[b, h, q, d]`` whose ``g`` heads share a key head, with no key repeated."""
    b, h, q, d = query.shape
    h_kv = key.shape[1]
    grouped = (query * scaling).reshape(b, h_kv, h // h_kv * q, d)
    return (grouped @ key.transpose(-1, -2)).view(b, h_kv, h // h_kv, q, -1)


def less_distance(logits: Tensor, slopes: Tensor | None, distance: Tensor | int) -> Tensor:
    """Logits ``[b, h_kv, g, q, k]`` with ALiBi's offset, in fp32; as they are without slopes."""
    if slopes is None:
        return logits
    return logits.float() - slopes.to(logits.device).view(1, logits.shape[1], logits.shape[2], 1, 1) * distance


def best_of_middle(middle: Middle, column: int, frame: Frame) -> tuple[Tensor, Tensor] | None:
    """Logits and columns, ``[b, h_kv, g, 1, k]`` each, of the best keys between sinks and window for the one query that
    stands in ``column``; None where nothing lies between.
    """
    shape, starts = frame.shape, frame.starts
    low, high = starts.least + shape.n_global, column - shape.n_local + 1
    if low >= high:
        return None
    found = grouped_logits(middle.query, middle.key[:, :, low:high], frame.scaling)  # [b, h_kv, g, 1, m]
    if starts.first is not None:
        first = starts.first.to(found.device)[:, None] + shape.n_global
        outside = torch.arange(low, high, device=found.device) < first
        found = found.masked_fill(outside[:, None, None, None], -torch.inf)
    best, index = found.topk(min(middle.k, high - low), dim=-1)
    return best, index + low


def add_middle(logits: list[Tensor], values: list[Tensor], middle: Middle, column: int, frame: Frame) -> None:
    """Put the best keys between sinks and window beside theirs, for the one query that stands in ``column``."""
    found = best_of_middle(middle, column, frame)
    if found is None:
        return
    best, at = found
    b, h_kv, g, _, k = at.shape
    d = middle.value.shape[-1]
    flat = at.reshape(b, h_kv, g * k, 1).expand(-1, -1, -1, d)
    logits.append(less_distance(best, frame.slopes, frame.shape.middle_distance))
    values.append(middle.value.gather(2, flat).view(b, h_kv, g, k, d))


def one_softmax(logits: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """``[b, h, q, d]``: softmax over all logits ``[b, h_kv, g, q, k]`` together, over values ``[b, h_kv, k, d]``, or
    ``[b, h_kv, g, k, d]`` where each head has its own.
    """
    together = torch.cat(list(logits), dim=-1) if len(logits) > 1 else logits[0]
    weights = together.softmax(dim=-1, dtype=torch.float32).to(values[0].dtype)
    b, h_kv, g, q, _ = weights.shape
    mixed = weights.new_zeros(())
    parts = torch.split(weights, [part.shape[-1] for part in logits], dim=-1)
    for part, value in zip(parts, values, strict=True):
        is_shared = value.dim() == 4
        found = part.reshape(b, h_kv, g * q, -1) @ value if is_shared else part @ value
        mixed = mixed + found.view(b, h_kv, g, q, -1)
    return mixed.reshape(b, h_kv * g, q, -1)


def lambda_row(local: Tensor, far: Tensor, middle: Tensor, *, shape: LambdaShape, at: Tensor, starts: Starts) -> Tensor:
    """One query's attention over every token of its row, in fp32.

    Args:
        local, far, middle: its logits ``[b, h, n]`` with all keys at their own place, at the ceiling, in the middle;
            in the middle -inf for those that it does not look at.
        shape: sizes of the Λ.
        at: ``[b]``, column of the query.
        starts: where rows begin.

    Returns:
        float32 ``[b, h, n]``; each row sums to 1.
    """
    n = local.shape[-1]
    column = torch.arange(n, device=local.device)
    first = torch.zeros_like(at) if starts.first is None else starts.first.to(at.device)
    distance = (at[:, None] - column)[:, None]  # [b, 1, n]
    from_start = (column - first[:, None])[:, None]
    is_local, is_sink = distance < shape.n_local, from_start < shape.n_global
    logits = torch.where(is_local, local.float(), torch.where(is_sink, far.float(), middle.float()))
    return logits.masked_fill((distance < 0) | (from_start < 0), -torch.inf).softmax(dim=-1)
