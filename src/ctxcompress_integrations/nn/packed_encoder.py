"""A BERT encoder over sequences packed end to end: linear layers see one matrix of real tokens, only attention sees
sequences. Nothing is padded where lengths are equal.

The architecture is that of all-MiniLM-L6-v2 (post-norm, GELU, learned absolute positions). Knows tensors alone: no
tokenizer, no files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCORES = 2**20
"""Attention scores that a CPU has in its cache at one time."""


class Block(NamedTuple):
    """Sequences of one packed batch that attend together; the blocks of a batch name each of its rows once, and those
    that have a ``first`` come in its order.

    Attributes:
        rows: int64 ``[b, n]``, the packed row of each position; padding repeats the sequence's last row.
        is_padding: bool ``[b, n]``; None when all ``b`` sequences have length ``n``.
        first: the first row, where ``rows`` count up from it without a gap: nothing has to be gathered. None elsewhere.
    """

    rows: Tensor
    is_padding: Tensor | None
    first: int | None = None

    def to(self, device: torch.device) -> Block:
        """The same on a device."""
        return Block(self.rows.to(device), None if self.is_padding is None else self.is_padding.to(device), self.first)

    def taken(self, packed: Tensor) -> Tensor:
        """Rows of ``[n_rows, d]`` -> ``[b, n, d]``; a view where nothing has to be gathered."""
        if self.first is None:
            return packed[self.rows]
        return packed[self.first : self.first + self.rows.numel()].view(*self.rows.shape, -1)


def pack(lengths: Sequence[int], *, step: int = 1) -> list[Block]:
    """Blocks for sequences that lie end to end.

    Args:
        lengths: tokens of each sequence; one of length 0 is in no block.
            Where equal lengths are neighbours, nothing is gathered.
        step: lengths are rounded up to a multiple of it; 1 pads nothing, so that no value depends on company.
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    alike: dict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(lengths):
        if length:
            alike[-(-length // step)].append(i)
    blocks = []
    for members in alike.values():
        longest = max(lengths[i] for i in members)
        first = torch.tensor([starts[i] for i in members])[:, None]
        n_tokens = torch.tensor([lengths[i] for i in members])[:, None]
        position = torch.arange(longest)[None]
        is_padding = position >= n_tokens
        rows = first + torch.minimum(position, n_tokens - 1)
        is_padded = bool(is_padding.any())
        is_dense = not is_padded and starts[members[-1]] - starts[members[0]] == longest * (len(members) - 1)
        blocks.append(Block(rows, is_padding if is_padded else None, starts[members[0]] if is_dense else None))
    return blocks


def mixed_values(q: Tensor, k: Tensor, v: Tensor, is_padding: Tensor | None = None) -> Tensor:
    """Softmax attention: ``[b, h, n, e]`` three times -> ``[b, h, n, e]``.

    On CPUs two batched products and a softmax take half the time of torch's fused kernel at these widths, when their
    scores stay in the cache: a few sequences at a time. Torch's softmax over bf16 is slow where rows are no multiple of
    32 long; over fp32 it takes half the time.

    Args:
        is_padding: bool ``[b, n]``, keys that nobody attends to.
    """
    b, h, n, e = q.shape
    is_cpu = q.device.type == "cpu"
    few = max(1, MAX_SCORES // (h * n * n)) if is_cpu else b
    in_fp32 = is_cpu and n % 32 != 0 and q.dtype == torch.bfloat16
    hidden: Sequence[Tensor | None] = [None] * b if is_padding is None else torch.split(is_padding, few)
    parts = []
    for some_q, some_k, some_v, is_hidden in zip(*(torch.split(x, few) for x in (q, k, v)), hidden, strict=False):
        flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (some_q, some_k, some_v))  # [b h, n, e]
        scores = torch.bmm(flat_q * e**-0.5, flat_k.transpose(-1, -2)).view(-1, h, n, n)
        if is_hidden is not None:
            scores = scores.masked_fill(is_hidden[:, None, None], torch.finfo(scores.dtype).min)
        shares = scores.softmax(dim=-1, dtype=torch.float32 if in_fp32 else None).to(v.dtype)
        parts.append(torch.bmm(shares.flatten(0, 1), flat_v).view(-1, h, n, e))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by layer norm over the residual sum.

    Args:
        width: ``d``.
        n_heads: ``h``; 0 for a layer whose attention was pruned away.
        n_inner: width of the feed-forward layer; 0 for a layer without.
        eps: of the layer norms.
        head_width: ``e`` of each head; ``d / h`` when None.
    """

    def __init__(self, width: int, n_heads: int, n_inner: int, eps: float, head_width: int | None = None) -> None:
        super().__init__()
        self.n_heads, self.n_inner = n_heads, n_inner
        self.head_width = head_width if head_width is not None else width // n_heads
        if n_heads:
            self.qkv = nn.Linear(width, 3 * n_heads * self.head_width)
            self.out = nn.Linear(n_heads * self.head_width, width)
        self.attention_norm = nn.LayerNorm(width, eps)
        if n_inner:
            self.up = nn.Linear(width, n_inner)
            self.down = nn.Linear(n_inner, width)
        self.output_norm = nn.LayerNorm(width, eps)

    def forward(self, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        """``[n, d]`` -> ``[n, d]``."""
        if self.n_heads:
            states = states + self.out(self._attend(self.qkv(states), blocks))
        states = self.attention_norm(states)
        if self.n_inner:
            states = states + self.down(F.gelu(self.up(states)))
        changed: Tensor = self.output_norm(states)
        return changed

    def _attend(self, qkv: Tensor, blocks: Sequence[Block]) -> Tensor:
        """``[n, 3 h e]`` -> ``[n, h e]``: every position attends to the positions of its own sequence."""
        parts = [self._mixed(block.taken(qkv), block.is_padding) for block in blocks]
        if all(block.first is not None for block in blocks):  # they lie end to end
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        reals = [None if block.is_padding is None else ~block.is_padding.flatten() for block in blocks]
        order = [
            b.rows.flatten() if real is None else b.rows.flatten()[real] for b, real in zip(blocks, reals, strict=True)
        ]
        mixed = torch.cat([part if real is None else part[real] for part, real in zip(parts, reals, strict=True)])
        return mixed.new_empty(mixed.shape).index_copy(0, torch.cat(order), mixed)

    def _mixed(self, qkv: Tensor, is_padding: Tensor | None) -> Tensor:
        """``[b, n, 3 h e]`` -> ``[b n, h e]``."""
        b, n, _ = qkv.shape
        q, k, v = qkv.view(b, n, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # each [b, h, n, e]
        return mixed_values(q, k, v, is_padding).transpose(1, 2).reshape(b * n, -1)


class PackedEncoder(nn.Module):
    """Embeddings and the first layers of a BERT.

    Args:
        n_vocabulary, n_positions: rows of the two tables.
        width, n_heads, n_inner, n_layers, eps: the shape; heads and inner widths of each layer where they differ.
        head_width: of each head; ``width / n_heads`` when None.
    """

    def __init__(
        self,
        *,
        n_vocabulary: int,
        n_positions: int,
        width: int,
        n_heads: int | Sequence[int],
        n_inner: int | Sequence[int],
        n_layers: int,
        eps: float = 1e-12,
        head_width: int | None = None,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(n_vocabulary, width)
        self.positions = nn.Embedding(n_positions, width)
        self.norm = nn.LayerNorm(width, eps)
        heads = [n_heads] * n_layers if isinstance(n_heads, int) else n_heads
        inner = [n_inner] * n_layers if isinstance(n_inner, int) else n_inner
        self.layers = nn.ModuleList(
            EncoderLayer(width, h, m, eps, head_width) for h, m in zip(heads, inner, strict=True)
        )

    def embed(self, ids: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Token ids int64 ``[n]`` -> the first layer's input ``[n, d]``."""
        states: Tensor = self.norm(self.sum_of_tables(ids, blocks))
        return states

    def sum_of_tables(self, ids: Tensor, blocks: Sequence[Block]) -> Tensor:
        """The same before the norm."""
        position = torch.empty_like(ids)
        for rows, is_padding, _ in blocks:
            here = torch.arange(rows.shape[1], device=ids.device).expand_as(rows)
            keep = slice(None) if is_padding is None else ~is_padding
            position[rows[keep]] = here[keep]
        states: Tensor = self.words(ids) + self.positions(position)
        return states

    def forward(self, ids: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Token ids int64 ``[n]`` of all sequences -> last hidden states ``[n, d]``."""
        return run_layers(self.layers, self.embed(ids, blocks), blocks)


def run_layers(layers: Iterable[nn.Module], states: Tensor, blocks: Sequence[Block]) -> Tensor:
    """States ``[n, d]`` through some layers."""
    for layer in layers if blocks else ():
        states = layer(states, blocks)
    return states
