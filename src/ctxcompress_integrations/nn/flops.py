"""Floating point operations of an encoder, counted from shapes: two for each multiplication with its addition, in
matrix products alone (linear layers, attention, samplers), as papers on pruning and torch's ``FlopCounterMode`` count.
Embeddings, norms, softmax and activations are left out, and so is padding: what is counted is real tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder


class LayerShape(NamedTuple):
    """Sizes of one layer and of the sampler before it (0: none)."""

    n_heads: int
    head_width: int
    n_inner: int
    n_sampler: int = 0


class EncoderShape(NamedTuple):
    """Sizes of an encoder."""

    width: int
    layers: tuple[LayerShape, ...]


BERT_BASE = EncoderShape(768, (LayerShape(12, 64, 3072),) * 12)
"""What papers on faster encoders compare with."""


def shape_of(encoder: PackedEncoder | DroppingEncoder) -> EncoderShape:
    """Sizes of a packed encoder, dense, folded or with samplers."""
    samplers: Any = encoder.samplers if isinstance(encoder, DroppingEncoder) else {}
    inner = encoder.encoder if isinstance(encoder, DroppingEncoder) else encoder
    layers: Any = inner.layers
    found = [
        LayerShape(
            layer.n_heads,
            layer.head_width,
            layer.n_inner,
            samplers[str(i)].down.out_features if str(i) in samplers else 0,
        )
        for i, layer in enumerate(layers)
    ]
    return EncoderShape(inner.words.embedding_dim, tuple(found))


def encoder_flops(shape: EncoderShape, lengths: Sequence[int] | Tensor) -> int:
    """Operations of one forward.

    Args:
        shape: of the encoder.
        lengths: tokens of each sequence ``[s]``; or :func:`lengths_by_layer` where tokens are dropped.
    """
    counts = torch.as_tensor(lengths, dtype=torch.long).cpu()
    if counts.dim() == 1:
        counts = counts.expand(len(shape.layers) + 1, -1)
    n_tokens, n_pairs = counts.sum(dim=1).tolist(), counts.square().sum(dim=1).tolist()
    total = 0
    for i, layer in enumerate(shape.layers):
        wide = layer.n_heads * layer.head_width
        total += 2 * n_tokens[i] * layer.n_sampler * (shape.width + 1)  # it also reads those that it drops
        total += 2 * n_tokens[i + 1] * shape.width * (4 * wide + 2 * layer.n_inner) + 4 * n_pairs[i + 1] * wide
    return total


def lengths_by_layer(depth: Tensor, lengths: Sequence[int], n_layers: int) -> Tensor:
    """int64 ``[l + 1, s]``: how many tokens each sequence has, then how many of them went into each layer.

    Args:
        depth: ``[n]``, layers that each token went through.
        lengths: tokens of each sequence, packed end to end.
        n_layers: ``l``.
    """
    of_sequences = torch.split(depth.cpu(), list(lengths))
    return torch.tensor([[int((d >= i).sum()) for d in of_sequences] for i in range(n_layers + 1)])
