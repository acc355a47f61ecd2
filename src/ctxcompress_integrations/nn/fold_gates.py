"""Settled gates multiplied into the weights, and what they closed cut out: a smaller encoder, an ordinary one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctxcompress_integrations.nn.encoder_gates import GateValues
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder


@torch.no_grad()
def fold(encoder: PackedEncoder, gates: GateValues) -> PackedEncoder:
    """The encoder that computes, on fewer columns, what ``encoder`` does under ``gates``.

    Args:
        encoder: left as it is.
        gates: any values but for ``hidden``, which must be 0 and 1.

    Returns:
        A new encoder; layers may differ in heads and feed-forward width, down to none. Its states are the columns
        ``gates.hidden.nonzero()`` of the other's.

    Raises:
        ValueError: hidden gates between 0 and 1, or all closed.
    """
    is_binary = bool(((gates.hidden == 0) | (gates.hidden == 1)).all())
    columns = gates.hidden.nonzero()[:, 0]
    if not is_binary or not len(columns):
        raise ValueError(f"hidden gates must be 0 or 1 and not all 0, got {sorted(set(gates.hidden.tolist()))[:5]}")
    heads = [gates.heads[i].nonzero()[:, 0] if gates.attention[i] else columns[:0] for i in range(len(gates.heads))]
    inner = [gates.inner[i].nonzero()[:, 0] if gates.feed_forward[i] else columns[:0] for i in range(len(gates.inner))]
    first: Any = encoder.layers[0]
    small = PackedEncoder(
        n_vocabulary=encoder.words.num_embeddings,
        n_positions=encoder.positions.num_embeddings,
        width=len(columns),
        n_heads=[len(kept) for kept in heads],
        n_inner=[len(kept) for kept in inner],
        n_layers=len(encoder.layers),
        eps=encoder.norm.eps,
        head_width=first.head_width,
    ).to(columns.device)
    small.words.weight.copy_(encoder.words.weight[:, columns])
    small.positions.weight.copy_(encoder.positions.weight[:, columns])
    _norm(small.norm, encoder.norm, columns)
    for i, (new, old) in enumerate(zip(small.layers, encoder.layers, strict=True)):
        _layer(new, old, gates.layer(i), heads[i], inner[i], columns)
    return small.train(encoder.training)


def _layer(new: Any, old: Any, gates: GateValues, heads: Tensor, inner: Tensor, columns: Tensor) -> None:
    _norm(new.attention_norm, old.attention_norm, columns)
    _norm(new.output_norm, old.output_norm, columns)
    if len(heads):
        within = torch.arange(old.head_width, device=heads.device)
        of_heads = (heads[:, None] * old.head_width + within).flatten()
        third = old.n_heads * old.head_width
        rows = torch.cat([of_heads, of_heads + third, of_heads + 2 * third])
        scale = gates.heads[heads].repeat_interleave(old.head_width) * gates.attention
        new.qkv.weight.copy_(old.qkv.weight[rows][:, columns])
        new.qkv.bias.copy_(old.qkv.bias[rows])
        new.out.weight.copy_(old.out.weight[columns][:, of_heads] * scale)
        new.out.bias.copy_(old.out.bias[columns] * gates.attention)
    if len(inner):
        new.up.weight.copy_(old.up.weight[inner][:, columns])
        new.up.bias.copy_(old.up.bias[inner])
        new.down.weight.copy_(old.down.weight[columns][:, inner] * gates.inner[inner] * gates.feed_forward)
        new.down.bias.copy_(old.down.bias[columns] * gates.feed_forward)


def _norm(new: nn.LayerNorm, old: nn.LayerNorm, columns: Tensor) -> None:
    new.weight.copy_(old.weight[columns])
    new.bias.copy_(old.bias[columns])
