"""The layers of a packed encoder with gates on their parts and on tokens: what training sees, nothing being removed.

With gates of 0 and 1 it computes what the folded model (``nn/fold_gates.py``) and the gathered one
(``nn/dropping_encoder.py``) compute; in between it has gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxcompress_integrations.nn.encoder_gates import GateValues
from ctxcompress_integrations.nn.packed_encoder import Block

_FURTHEST = 50.0


def gated_norm(norm: nn.LayerNorm, states: Tensor, hidden: Tensor | None) -> Tensor:
    """Layer norm over the columns that are open: mean and variance weighted by ``hidden`` ``[d]``, zero where it is."""
    if hidden is None:
        return F.layer_norm(states, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    share = hidden / hidden.sum().clamp(min=1e-6)
    centred = states - (states * share).sum(dim=-1, keepdim=True)  # no product: autocast would round it
    variance = (centred.square() * share).sum(dim=-1, keepdim=True)
    return (centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias) * hidden


def gated_attention(layer: Any, states: Tensor, blocks: Sequence[Block], keep: Tensor | None) -> Tensor:
    """Heads' outputs ``[n, h e]``: weights ``keep_j e^s_ij / sum_k keep_k e^s_ik``, ``keep`` ``[n]`` in [0, 1]."""
    qkv: Tensor = layer.qkv(states)
    mixed = qkv.new_zeros(qkv.shape[0], qkv.shape[1] // 3)
    for block in blocks:
        rows, is_padding = block.rows, block.is_padding
        b, n = rows.shape
        q, k, v = block.taken(qkv).view(b, n, 3, layer.n_heads, -1).permute(2, 0, 3, 1, 4)  # each [b, h, n, e]
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weight = torch.ones_like(rows, dtype=scores.dtype) if keep is None else keep[rows].to(scores.dtype)
        if is_padding is not None:
            weight = weight.masked_fill(is_padding, 0)
        weight = weight[:, None, None]  # [b, 1, 1, n]
        # largest among the kept; a dropped key may lie above, and only its gradient is at stake
        largest = scores.detach().masked_fill(weight == 0, -torch.inf).amax(dim=-1, keepdim=True)
        raised = (scores - largest).clamp(max=_FURTHEST).exp() * weight
        out = ((raised / raised.sum(dim=-1, keepdim=True)) @ v).transpose(1, 2).reshape(b * n, -1)
        is_real = slice(None) if is_padding is None else ~is_padding.flatten()
        mixed = mixed.index_copy(0, rows.flatten()[is_real], out[is_real])
    return mixed


def gated_layer(
    layer: Any,
    states: Tensor,
    blocks: Sequence[Block],
    *,
    gates: GateValues | None = None,
    keep: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """One layer with its parts multiplied by gates.

    Args:
        layer: an :class:`~ctxcompress_integrations.nn.packed_encoder.EncoderLayer`.
        states: ``[n, d]``.
        blocks: sequences.
        gates: of this layer (:meth:`GateValues.layer`).
        keep: ``[n]``; who may be attended to, and who changes: others keep their state.
        dropout: probability, on what is added to the residual stream.

    Returns:
        ``[n, d]``.
    """
    before, hidden = states, None if gates is None else gates.hidden
    if layer.n_heads:
        mixed = gated_attention(layer, states, blocks, keep)
        if gates is not None:
            mixed = mixed * gates.heads.repeat_interleave(layer.head_width)
        attended = layer.out(mixed) if gates is None else layer.out(mixed) * gates.attention
        states = states + F.dropout(attended, dropout, dropout > 0)
    states = gated_norm(layer.attention_norm, states, hidden)
    if layer.n_inner:
        active = F.gelu(layer.up(states))
        active = layer.down(active) if gates is None else layer.down(active * gates.inner) * gates.feed_forward
        states = states + F.dropout(active, dropout, dropout > 0)
    states = gated_norm(layer.output_norm, states, hidden)
    return states if keep is None else before + keep[:, None] * (states - before)


def gated_embedding(encoder: Any, ids: Tensor, blocks: Sequence[Block], gates: GateValues | None) -> Tensor:
    """The first layer's input ``[n, d]``, from the open columns."""
    if gates is None:
        states: Tensor = encoder.embed(ids, blocks)
        return states
    return gated_norm(encoder.norm, encoder.sum_of_tables(ids, blocks), gates.hidden)
