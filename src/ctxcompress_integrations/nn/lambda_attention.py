"""Attention under the Λ-mask of LM-Infinite (arXiv:2308.16137), exact, in time and memory linear in the length.

Queries are taken a few at a time; each group reads its own window of keys and the sinks, with one softmax over both, so
no ``[n, n]`` tensor exists. Rotary and ALiBi models share the code. A rotary model's window has queries and keys at
their own positions; for the sinks queries stay unrotated and the few keys are rotated back by ``n_local``, so that a
sink stands at distance ``n_local`` exactly. Under ALiBi nothing is rotated, and slopes take the distances off.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxcompress_integrations.nn.lambda_mask import distances, hidden_sinks
from ctxcompress_integrations.nn.lambda_parts import (
    Frame,
    Middle,
    Sinks,
    add_middle,
    grouped_logits,
    less_distance,
    one_softmax,
)

_AT_ONCE, _LEAST_AT_ONCE = 2**19, 64
"""Logits of a group of queries, about what a core's own cache holds; queries in it, or keys are read too often."""


class Queries(NamedTuple):
    """The same queries ``[b, h, q, d]`` at their own places, for the window, and unrotated, for the sinks."""

    local: Tensor
    raw: Tensor


def lambda_attention(
    queries: Queries, key: Tensor, value: Tensor, sinks: Sinks, frame: Frame, middle: Middle | None = None
) -> Tensor:
    """Attention of ``q`` new tokens over window and sinks.

    Args:
        queries: of the new tokens.
        key, value: ``[b, h_kv, p + q, d]``: the new tokens' and those of the ``p = min(start, n_local - 1)`` (or more)
            before them, in order.
        sinks: of each row's first tokens.
        frame: what all queries share. A padding query sees itself alone.
        middle: for the last query.

    Returns:
        ``[b, h, q, d]``.
    """
    b, h, q, _ = queries.local.shape
    n_local, past = frame.shape.n_local, key.shape[2] - q
    if frame.is_plain(q):  # what the model itself would call, to the bit
        is_grouped = key.shape[1] != h
        return F.scaled_dot_product_attention(
            queries.local, key, value, is_causal=True, scale=frame.scaling, enable_gqa=is_grouped
        )
    at_once = min(n_local // 4, _AT_ONCE // (b * h * (n_local + frame.shape.n_global)))
    at_once = max(_LEAST_AT_ONCE, at_once)  # a group reads n_local keys beside its own: few queries waste the least
    begins = sorted({*range(0, q, at_once), *([q - 1] if middle is not None else [])})  # the last query goes alone
    band = _Band(frame, past)
    groups = []
    for begin, end in zip(begins, [*begins[1:], q], strict=True):
        low = max(0, past + begin - n_local + 1)
        keys, values = key[:, :, low : past + end], [value[:, :, low : past + end]]
        logits = [band.hide(grouped_logits(queries.local[:, :, begin:end], keys, frame.scaling), begin, low)]
        _add_sinks(logits, values, queries.raw[:, :, begin:end], sinks, frame, begin)
        if middle is not None and end == q:
            add_middle(logits, values, middle, frame.start + q - 1, frame)
        groups.append(one_softmax(logits, values))
    return torch.cat(groups, dim=2)


def lambda_step(
    queries: Queries, key: Tensor, value: Tensor, sinks: Sinks, frame: Frame, middle: Middle | None = None
) -> Tensor:
    """:func:`lambda_attention` of one new token over a ring: column ``c`` lies at ``c % n_local``.

    ``key`` and ``value`` ``[b, h_kv, k, d]`` are as much of the ring as is filled, the new token included. Softmax does
    not mind the order.
    """
    start, starts = frame.start, frame.starts
    distance = (start - torch.arange(key.shape[2], device=key.device)) % frame.shape.n_local
    local = less_distance(grouped_logits(queries.local, key, frame.scaling), frame.slopes, distance)
    if starts.first is not None and start - frame.shape.n_local + 1 < starts.most:
        padding = (start - distance < starts.first.to(key.device)[:, None]) & (distance > 0)
        local = local.masked_fill(padding[:, None, None, None], -torch.inf)
    logits, values = [local], [value]
    _add_sinks(logits, values, queries.raw, sinks, frame, 0)
    if middle is not None:
        add_middle(logits, values, middle, start, frame)
    return one_softmax(logits, values)


class _Band:
    """Hides what is outside the window. Most groups of a call stand alike and share one mask."""

    def __init__(self, frame: Frame, past: int) -> None:
        self.frame, self.past = frame, past
        self._known: tuple[tuple[int, int, int], Tensor, Tensor] | None = None

    def hide(self, logits: Tensor, begin: int, low: int) -> Tensor:
        """Logits ``[b, h_kv, g, q, k]`` of queries from ``begin`` and keys from ``low`` on, hidden ones at -inf."""
        frame, (n_rows, n_keys) = self.frame, logits.shape[-2:]
        place = (self.past + begin - low, n_rows, n_keys)
        if self._known is None or self._known[0] != place:
            distance = distances(*place, logits.device)
            self._known = (place, distance, (distance < 0) | (distance >= frame.shape.n_local))
        _, distance, hidden = self._known
        logits = less_distance(logits, frame.slopes, distance).masked_fill_(hidden, -torch.inf)
        column = frame.start - self.past + low  # of the first key
        if frame.starts.first is not None and column < frame.starts.most:
            columns = torch.arange(column, column + n_keys, device=logits.device)
            padding = (columns < frame.starts.first.to(logits.device)[:, None])[:, None, None, None]
            # a padding query keeps itself: a softmax over nothing is NaN, which spreads
            logits = logits.masked_fill(padding & (distance != 0), -torch.inf)
        return logits


def _add_sinks(logits: list[Tensor], values: list[Tensor], raw: Tensor, sinks: Sinks, frame: Frame, begin: int) -> None:
    """Put the sinks beside the window, for queries ``raw`` from ``begin`` on, if one of them sees any."""
    shape, starts, n_rows, first_row = frame.shape, frame.starts, raw.shape[2], frame.start + begin
    if first_row + n_rows - 1 - starts.least < shape.n_local:
        return
    found = less_distance(grouped_logits(raw, sinks.key, frame.scaling), frame.slopes, shape.n_local)
    if first_row - starts.most - (shape.n_global - 1) < shape.n_local:
        found = found.masked_fill(hidden_sinks(first_row, n_rows, shape, starts, raw.device), -torch.inf)
    logits.append(found)
    values.append(sinks.value)
