"""One row of an attention map, computed without the other n - 1.

QUITO (arXiv:2408.00274) reads how much a single trigger token attends to each context token. The whole map of a layer
is ``[b, h, n, n]``; the row is ``[b, h, n]``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_row(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    n_keys: Tensor,
    mask: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax over keys for one query position per sequence, in fp32.

    Args:
        query: ``[b, h, d]``, the trigger token's query vectors, rotated already where the model rotates.
        key: ``[b, h_kv, n, d]`` with ``h`` a multiple of ``h_kv`` (grouped-query attention).
        scaling: factor on the dot products.
        n_keys: ``[b]``, keys that exist for each trigger: those at ``n_keys`` and beyond get weight 0.
        mask: bool (True = visible) or additive, broadcastable to ``[b, h, n]``; the trigger's own row.
        softcap: Gemma 2's cap ``c * tanh(logit / c)``.

    Returns:
        float32 ``[b, h, n]``; each row sums to 1, or is all zero where nothing is visible.
    """
    b, h, d = query.shape
    _, h_kv, n, _ = key.shape
    grouped = query.float().view(b, h_kv, h // h_kv, d)
    logits = (grouped @ key.float().transpose(-1, -2) * scaling).reshape(b, h, n)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    exists = torch.arange(n, device=key.device) < n_keys.to(key.device)[:, None]
    if mask is not None and mask.dtype == torch.bool:
        exists = exists[:, None] & mask
    else:
        exists = exists[:, None].expand(b, h, n)
        if mask is not None:
            logits = logits + mask.float()
    logits = logits.masked_fill(~exists, float("-inf"))
    return torch.softmax(logits, dim=-1).nan_to_num(0.0)  # a row without any key is NaN before, no attention after
