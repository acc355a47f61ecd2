"""Reading a long text through a decoder LM a chunk at a time: with a cache of constant size, in constant memory.

Works on any causal LM; inside LM-Infinite (``patches/lm_infinite.py``) the cache stops growing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from ctxcompress_integrations._numbers import whole


def read(
    model: Any, input_ids: Tensor, *, chunk: int = 1024, attention_mask: Tensor | None = None
) -> tuple[DynamicCache, Tensor]:
    """The cache after ``input_ids`` ``[b, n]``, and the logits ``[b, v]`` of the next token; no gradients.

    Args:
        chunk: tokens of one forward.
        attention_mask: ``[b, n]``, zeros on the left for padding.
    """
    cache = DynamicCache()
    *_, (_, logits) = _chunks(model, input_ids, cache, chunk, attention_mask, only_last=True)
    return cache, logits[:, -1]


def token_losses(model: Any, input_ids: Tensor, *, chunk: int = 1024, attention_mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood, in nats, of tokens 1 ... n - 1 of ``input_ids`` ``[b, n]``: float32 ``[b, n - 1]``.

    Arguments as for :func:`read`; the losses of padding mean nothing. Logits exist for one chunk at a time.
    """
    found = []
    for start, logits in _chunks(model, input_ids, DynamicCache(), chunk, attention_mask, only_last=False):
        target = input_ids[:, start + 1 : start + 1 + logits.shape[1]].to(logits.device)
        each = logits[:, : target.shape[1]].float().transpose(1, 2)
        found.append(F.cross_entropy(each, target, reduction="none"))
    return torch.cat(found, dim=1)


def _chunks(
    model: Any, input_ids: Tensor, cache: DynamicCache, chunk: int, attention_mask: Tensor | None, *, only_last: bool
) -> Iterator[tuple[int, Tensor]]:
    """``(first column, logits [b, q, v])`` of each chunk, or of its last token alone."""
    if input_ids.dim() != 2 or not input_ids.numel():
        raise ValueError(f"input_ids must be [b, n] with n >= 1, got shape {tuple(input_ids.shape)}")
    chunk = whole("chunk", chunk)
    for start in range(0, input_ids.shape[1], chunk):
        end = min(start + chunk, input_ids.shape[1])
        mask = None if attention_mask is None else attention_mask[:, :end]
        with torch.no_grad():
            logits = model(
                input_ids=input_ids[:, start:end],
                attention_mask=mask,
                past_key_values=cache,
                logits_to_keep=int(only_last),
            ).logits
        yield start, logits
