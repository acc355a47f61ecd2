"""The attention of the ALiBi families as LM-Infinite computes it; projections and output are the module's own.

ALiBi takes ``slope * distance`` off each logit. Under the patch a distance is never more than ``n_local``, so the
offset is clipped below at ``-slope * n_local``, which is all that the method asks of these models.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def bloom_forward(
    module: Any,
    hidden_states: Tensor,
    residual: Tensor,
    attention_mask: object = None,
    lambda_pass: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``BloomAttention.forward`` through the Λ-mask: hidden states and residual ``[b, q, d]``."""
    query, key, value = module._reshape(module.query_key_value(hidden_states))
    dropout = module.attention_dropout.p if module.training else 0.0
    mixed = lambda_pass.attend(query, key, value, attention_mask, scaling=module.inv_norm_factor, dropout=dropout)
    out = module.dense(mixed.transpose(1, 2).flatten(2))
    return F.dropout(out, p=module.hidden_dropout, training=module.training) + residual, None


def mpt_forward(
    module: Any, hidden_states: Tensor, attention_mask: object = None, lambda_pass: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """``MptAttention.forward`` through the Λ-mask: hidden states ``[b, q, d]``."""
    mixed_qkv = module.Wqkv(hidden_states)
    if module.clip_qkv:
        mixed_qkv = mixed_qkv.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    query, key, value = (
        part.unflatten(-1, (module.n_heads, module.head_dim)).transpose(1, 2) for part in mixed_qkv.chunk(3, dim=-1)
    )
    dropout = module.attn_dropout_p if module.training else 0.0
    mixed = lambda_pass.attend(query, key, value, attention_mask, scaling=module.softmax_scale, dropout=dropout)
    return module.out_proj(mixed.transpose(1, 2).flatten(2)), None
