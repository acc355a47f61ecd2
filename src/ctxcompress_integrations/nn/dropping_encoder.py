"""An encoder that drops tokens on the way: a sampler before some layers, and kept tokens gathered after it, so that
linear layers and attention see fewer rows. A token that was dropped keeps its last state and never comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctxcompress_integrations.nn.gated_encoder import gated_layer
from ctxcompress_integrations.nn.packed_encoder import Block, PackedEncoder
from ctxcompress_integrations.nn.token_sampler import TokenSampler, Trace, draw


class Kept(NamedTuple):
    """What an evaluation forward gives.

    Attributes:
        states: last states ``[n, d]`` of all tokens, in their places; a dropped token's are those it was dropped with.
        depth: int64 ``[n]``, layers that each token went through.
    """

    states: Tensor
    depth: Tensor


class DroppingEncoder(nn.Module):
    """A packed encoder with token samplers.

    Args:
        encoder: dense or folded.
        sampled: numbers of the layers that have a sampler before them, ascending.
        n_inner: width of the samplers' bottleneck.
        start: their log-odds at the start.

    Raises:
        ValueError: a layer that there is not.
    """

    def __init__(
        self, encoder: PackedEncoder, *, sampled: Sequence[int], n_inner: int = 16, start: float = 10.0
    ) -> None:
        super().__init__()
        n_layers = len(encoder.layers)
        if sorted(set(sampled)) != list(sampled) or not all(0 <= i < n_layers for i in sampled):
            raise ValueError(f"sampled layers must be ascending numbers in [0, {n_layers}), got {list(sampled)}")
        self.encoder = encoder
        width = encoder.words.embedding_dim
        self.samplers = nn.ModuleDict({str(i): TokenSampler(width, n_inner, start=start) for i in sampled})

    def forward(self, ids: Tensor, blocks: Sequence[Block], protected: Tensor | None = None) -> Tensor:
        """Last states ``[n, d]``, as a :class:`PackedEncoder` gives them; see :meth:`kept`."""
        return self.kept(ids, blocks, protected).states

    def kept(
        self, ids: Tensor, blocks: Sequence[Block], protected: Tensor | None = None, *, threshold: float = 0.0
    ) -> Kept:
        """Evaluation: decisions are ``log-odds > threshold``, and what is dropped is no longer computed.

        Args:
            ids: int64 ``[n]``.
            blocks: sequences; the first token of each, [CLS], is always kept.
            protected: bool ``[n]``, tokens that are always kept beside it (a query's).
            threshold: above 0 more is dropped than in training.
        """
        states = self.encoder.embed(ids, blocks)
        final, active = states, torch.arange(len(ids), device=ids.device)
        is_safe = protected_tokens(ids, blocks, protected)
        depth = torch.full_like(ids, len(self.encoder.layers))
        for i, layer in enumerate(self.encoder.layers):
            if str(i) in self.samplers:
                keep = (self.samplers[str(i)](states) > threshold) | is_safe
                stays = keep.nonzero()[:, 0]  # once: a mask as an index looks for its places every time
                if len(stays) < len(keep):
                    final = final.index_copy(0, active, states)
                    depth[active[~keep]] = i
                    blocks = gathered(blocks, keep)
                    states, active, is_safe = (part.index_select(0, stays) for part in (states, active, is_safe))
            if blocks:
                states = layer(states, blocks)
        final = states if len(active) == len(ids) else final.index_copy(0, active, states)
        return Kept(final, depth)

    def masked(
        self,
        ids: Tensor,
        blocks: Sequence[Block],
        protected: Tensor | None = None,
        *,
        dropout: float = 0.0,
    ) -> tuple[Tensor, list[Trace]]:
        """Training: random decisions with gradients; everything is computed, dropped tokens are not attended to and do
        not change. Last states ``[n, d]`` and a trace per sampling layer.
        """
        states = self.encoder.embed(ids, blocks)
        is_safe = protected_tokens(ids, blocks, protected)
        drawn, traces = None, []
        for i, layer in enumerate(self.encoder.layers):
            if str(i) in self.samplers:
                drawn = draw(self.samplers[str(i)](states)).joined(drawn, is_safe)
                traces.append(Trace(states, drawn))
            keep = None if drawn is None else drawn.hard
            states = gated_layer(layer, states, blocks, keep=keep, dropout=dropout)
        return states, traces


def protected_tokens(ids: Tensor, blocks: Sequence[Block], protected: Tensor | None) -> Tensor:
    """Bool ``[n]``: the first token of each sequence, and what the caller protects."""
    is_safe = torch.zeros_like(ids, dtype=torch.bool) if protected is None else protected.clone()
    for block in blocks:
        is_safe[block.rows[:, 0]] = True
    return is_safe


def gathered(blocks: Sequence[Block], keep: Tensor) -> list[Block]:
    """The blocks of the rows that stay when ``keep``, bool ``[n]``, takes rows out of a packed batch.

    The sequences of a block stay together, padded to the longest among them; each must keep at least one row.
    """
    if len(blocks) == 1 and len(blocks[0].rows) == 1:  # one sequence is all that there is
        return [Block(torch.arange(int(keep.sum()), device=keep.device)[None], None, 0)]
    new_row = keep.cumsum(0) - 1
    found = []
    for rows, is_padding, first in blocks:
        stays = keep[rows] if is_padding is None else keep[rows] & ~is_padding
        if len(rows) == 1:
            kept = new_row[rows[stays]]
            found.append(Block(kept[None], None, None if first is None else int(kept[0])))
            continue
        lengths = stays.sum(dim=1, keepdim=True)
        position = torch.arange(int(lengths.max()), device=rows.device)[None]
        in_order = (~stays).to(torch.uint8).argsort(dim=1, stable=True)  # kept columns first
        column = in_order.gather(1, torch.minimum(position, lengths - 1))
        beyond = position >= lengths
        found.append(Block(new_row[rows.gather(1, column)], beyond if bool(beyond.any()) else None))
    return found
