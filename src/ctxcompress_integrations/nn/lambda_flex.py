"""The Λ-mask on a GPU: the band through FlexAttention, the sinks beside it, merged through their log-sum-exps.

The block table is made by arithmetic on blocks, ``(n / 128)^2`` small integers, never from an ``[n, n]`` mask.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ctxcompress_integrations.nn.lambda_attention import Queries
from ctxcompress_integrations.nn.lambda_mask import Starts, hidden_sinks
from ctxcompress_integrations.nn.lambda_parts import Frame, Sinks, grouped_logits

BLOCK = 128
FORMS = 64
"""Compiled forms that may stand side by side: one row or several, padding or none, first chunks and later ones, for
each kind of model. Past its own limit of 8 torch would compute ``[n, n]`` logits in silence; past this one it raises.
"""


def flex_lambda_attention(
    queries: Queries, key: Tensor, value: Tensor, sinks: Sinks, frame: Frame, *, is_compiled: bool = True
) -> Tensor:
    """As :func:`~ctxcompress_integrations.nn.lambda_attention.lambda_attention`, for rotary models."""
    b, h, q, d = queries.local.shape
    n_local, start, starts = frame.shape.n_local, frame.start, frame.starts
    mask = band_blocks(q, key.shape[2], n_local, start, starts, key.device)
    attention = _compiled() if is_compiled else flex_attention
    is_grouped = key.shape[1] != h
    with config.patch(cache_size_limit=FORMS):
        band, aux = attention(
            queries.local, key, value, block_mask=mask, scale=frame.scaling, enable_gqa=is_grouped, **_wants_lse()
        )
    band_lse = getattr(aux, "lse", aux)
    logits = grouped_logits(queries.raw, sinks.key, frame.scaling).float()
    hidden = hidden_sinks(start, q, frame.shape, starts, key.device)
    logits = logits.masked_fill(hidden, torch.finfo(torch.float32).min)  # a row without sinks: no weight, and no NaN
    lse = logits.logsumexp(dim=-1).view(b, h, q)
    weights = logits.softmax(dim=-1).to(value.dtype).reshape(b, key.shape[1], -1, frame.shape.n_global)
    return merge(band, band_lse, (weights @ sinks.value).view(b, h, q, d), lse)


def merge(one: Tensor, one_lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """Two attentions ``[b, h, q, d]`` over disjoint keys as one softmax over all keys; log-sum-exps ``[b, h, q]``."""
    share = torch.sigmoid(other_lse.float() - one_lse.float())[..., None]
    return torch.lerp(one.float(), other.float(), share).to(one.dtype)


def band_blocks(
    n_queries: int, n_keys: int, n_local: int, start: int, starts: Starts, device: torch.device
) -> BlockMask:
    """The band of the last ``n_queries`` of ``n_keys`` tokens; ``start`` is the first query's column."""
    past = n_keys - n_queries
    padding = starts.first.to(device) - (start - past) if starts.first is not None else None
    # tensors: an int would be compiled into the code, anew for each length of the past
    shift, width = (torch.full((), each, device=device) for each in (past, n_local))

    def is_seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + shift - key
        seen = (distance >= 0) & (distance < width)
        return seen if padding is None else seen & ((key >= padding[row]) | (distance == 0))

    top = torch.arange(0, n_queries, BLOCK, device=device)[:, None] + past
    left = torch.arange(0, n_keys, BLOCK, device=device)
    bottom, right = ((edge + BLOCK - 1).clamp(max=n_keys - 1) for edge in (top, left))
    is_seen_at_all = (bottom - left >= 0) & (top - right < n_local)
    is_full = (top - right >= 0) & (bottom - left < n_local) & (left + start - past >= starts.most)
    seen, full = _table(is_seen_at_all & ~is_full), _table(is_full)
    return BlockMask.from_kv_blocks(*seen, *full, BLOCK, is_seen, (n_queries, n_keys))


def _table(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts ``[1, 1, q]`` and column numbers ``[1, 1, q, k]``, wanted ones first, of a bool ``[q, k]``."""
    order = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(dim=1, dtype=torch.int32)[None, None], order.int()[None, None]


@cache
def _compiled(backend: str = "inductor") -> Any:
    return torch.compile(flex_attention, fullgraph=True, backend=backend)  # fullgraph: an error at the limit


def _wants_lse() -> dict[str, Any]:
    """The argument that asks for log-sum-exps, which changed its name."""
    try:
        from torch.nn.attention.flex_attention import AuxRequest
    except ImportError:
        return {"return_lse": True}
    return {"return_aux": AuxRequest(lse=True)}
