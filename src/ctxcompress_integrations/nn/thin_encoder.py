"""Heads and neurons cut out of an encoder so that what a layer adds changes least, in the least-squares sense: the
structured optimal brain surgeon (ZipLM, arXiv:2302.04089), one shot, from states that the encoder saw.

Width and depth stay, so that every layer of the thin encoder can be held against the same layer of the whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxcompress_integrations.nn.packed_encoder import Block, PackedEncoder

DAMPING = 1e-2
"""Added to the diagonal of a covariance, as a share of its mean."""


class Fitted(NamedTuple):
    """A linear layer that reads fewer inputs.

    Attributes:
        kept: int64 ``[k]``, which of its inputs, ascending.
        weight: ``[d, k]``.
        bias: ``[d]``.
    """

    kept: Tensor
    weight: Tensor
    bias: Tensor


@torch.no_grad()
def fewer_inputs(weight: Tensor, bias: Tensor, inputs: Tensor, *, group: int, keep: int) -> Fitted:
    """Leave out groups of inputs one after the other, each time those whose loss the others make up for best, and fit
    the rest to what the whole layer gave.

    Args:
        weight, bias: ``[d, m]``, ``[d]``.
        inputs: ``[n, m]`` that it saw.
        group: neighbouring inputs that go together (a head's).
        keep: groups that stay.

    Raises:
        ValueError: more groups to keep than there are, or none.
    """
    n_groups = weight.shape[1] // group
    if not 1 <= keep <= n_groups:
        raise ValueError(f"keep must be in [1, {n_groups}], got {keep}")
    mean = inputs.double().mean(dim=0)
    centred = inputs.double() - mean
    covariance = centred.T @ centred / len(inputs)
    covariance.diagonal().add_(DAMPING * covariance.diagonal().mean())
    inverse, fitted = torch.linalg.inv(covariance), weight.double().clone()
    is_left = torch.ones(n_groups, dtype=torch.bool, device=inputs.device)
    for _ in range(n_groups - keep):
        blocks = _diagonal_blocks(inverse, group)  # [g, e, e]
        parts = fitted.view(len(fitted), n_groups, group).permute(1, 2, 0)  # [g, e, d]
        error = (parts * torch.linalg.solve(blocks, parts)).sum(dim=(1, 2))
        worst = int(error.masked_fill(~is_left, torch.inf).argmin())
        is_left[worst] = False
        gone = slice(worst * group, (worst + 1) * group)
        rows = torch.linalg.solve(blocks[worst], inverse[gone])  # [e, m]
        fitted -= fitted[:, gone].clone() @ rows
        inverse -= inverse[:, gone].clone() @ rows  # leaves zeros where the group stood
        inverse[gone, gone].diagonal().fill_(1)
    kept = is_left.repeat_interleave(group).nonzero()[:, 0]
    fitted = fitted[:, kept]
    offset = weight.double() @ mean - fitted @ mean[kept]
    return Fitted(kept, fitted.to(weight.dtype), (bias.double() + offset).to(bias.dtype))


def _diagonal_blocks(matrix: Tensor, size: int) -> Tensor:
    """``[g, e, e]`` along the diagonal of ``[g e, g e]``."""
    n = len(matrix) // size
    return matrix.view(n, size, n, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


@torch.no_grad()
def thinned(
    encoder: PackedEncoder, ids: Tensor, blocks: Sequence[Block], *, n_heads: int, n_inner: int
) -> PackedEncoder:
    """A new encoder with fewer heads and neurons in every layer, on the same embeddings.

    Args:
        encoder: left as it is.
        ids, blocks: packed texts, some tens of thousands of tokens, that say which heads and neurons matter.
        n_heads, n_inner: of each layer.
    """
    first: Any = encoder.layers[0]
    thin = PackedEncoder(
        n_vocabulary=encoder.words.num_embeddings,
        n_positions=encoder.positions.num_embeddings,
        width=encoder.words.embedding_dim,
        n_heads=n_heads,
        n_inner=n_inner,
        n_layers=len(encoder.layers),
        eps=encoder.norm.eps,
        head_width=first.head_width,
    )
    for name in ("words", "positions", "norm"):
        getattr(thin, name).load_state_dict(getattr(encoder, name).state_dict())
    states = encoder.embed(ids, blocks)
    for whole, new in zip(encoder.layers, thin.layers, strict=True):
        _thin_layer(whole, new, states, blocks)
        states = whole(states, blocks)
    return thin.train(encoder.training)


def _thin_layer(whole: Any, new: Any, states: Tensor, blocks: Sequence[Block]) -> None:
    """Fill ``new`` with what is best kept of ``whole``, which reads ``states`` ``[n, d]``."""
    mixed = whole._attend(whole.qkv(states), blocks)
    attention = fewer_inputs(whole.out.weight, whole.out.bias, mixed, group=whole.head_width, keep=new.n_heads)
    third = whole.n_heads * whole.head_width
    rows = torch.cat([attention.kept + part * third for part in range(3)])
    between = whole.attention_norm(states + whole.out(mixed))
    inner = fewer_inputs(whole.down.weight, whole.down.bias, F.gelu(whole.up(between)), group=1, keep=new.n_inner)
    new.qkv.weight.copy_(whole.qkv.weight[rows])
    new.qkv.bias.copy_(whole.qkv.bias[rows])
    new.out.weight.copy_(attention.weight)
    new.out.bias.copy_(attention.bias)
    new.up.weight.copy_(whole.up.weight[inner.kept])
    new.up.bias.copy_(whole.up.bias[inner.kept])
    new.down.weight.copy_(inner.weight)
    new.down.bias.copy_(inner.bias)
    for name in ("attention_norm", "output_norm"):
        getattr(new, name).load_state_dict(getattr(whole, name).state_dict())
