"""IC-Former (arXiv:2406.13618): digest tokens that look at a context's word vectors, in cost linear in its length.

A few blocks of cross-attention and nothing else. Keys and values of every block come from the same fixed matrix, the
context's *input embeddings* followed by the initial digests, normalised anew per block; only the queries, the digests'
own states, move. Digest ``i`` sees the whole context and the initial digests up to itself. Rotary positions number the
context ``0 .. n-1`` and the digests after it; queries stand at the digests' places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DigestEncoder(nn.Module):
    """``[n, d]`` word vectors of a reader in, ``[m, d]`` of its input vectors out.

    Args:
        width: ``d`` of the reader's input embeddings.
        n_digests: ``m``.
        n_layers, n_heads, n_kv_heads, n_inner: of the blocks; ``n_kv_heads=None`` is ``n_heads``.
        eps: of the RMS norms.
        rope_theta: base of the rotary frequencies.

    Raises:
        ValueError: sizes that do not divide, or that are below 1.
    """

    def __init__(
        self,
        *,
        width: int,
        n_digests: int = 128,
        n_layers: int = 3,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_inner: int = 11008,
        eps: float = 1e-6,
        rope_theta: float = 10000.0,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if min(width, n_digests, n_layers, n_heads, n_kv_heads, n_inner) < 1:
            raise ValueError(
                f"sizes must be >= 1, got width={width}, n_digests={n_digests}, n_layers={n_layers}, "
                f"n_heads={n_heads}, n_kv_heads={n_kv_heads}, n_inner={n_inner}"
            )
        if width % (2 * n_heads) or n_heads % n_kv_heads:
            raise ValueError(
                f"width must be a multiple of 2 * n_heads, and n_heads of n_kv_heads; got width={width}, "
                f"n_heads={n_heads}, n_kv_heads={n_kv_heads}"
            )
        self.rope_theta, self.head_width = rope_theta, width // n_heads
        self.sizes = {
            "width": width,
            "n_digests": n_digests,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "n_inner": n_inner,
            "eps": eps,
            "rope_theta": rope_theta,
        }
        self.digests = nn.Parameter(torch.zeros(n_digests, width))
        self.layers = nn.ModuleList(
            DigestBlock(width, n_heads=n_heads, n_kv_heads=n_kv_heads, n_inner=n_inner, eps=eps)
            for _ in range(n_layers)
        )
        self.norm = nn.RMSNorm(width, eps=eps)

    def forward(self, context: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Soft prompts, one per row of the batch.

        Args:
            context: ``[b, n, d]`` word vectors, padded on the right.
            lengths: int64 ``[b]``, how many of a row's vectors exist; None when all do.

        Returns:
            ``[b, m, d]``; padding changes nothing.
        """
        n, m = context.shape[1], len(self.digests)
        ends = context.new_full((1,), n, dtype=torch.long) if lengths is None else lengths.to(context.device)
        own = ends[:, None] + torch.arange(m, device=context.device)
        shared = torch.arange(n, device=context.device).expand(len(ends), n)
        rotation = self._rotation(torch.cat([shared, own], dim=1))
        earlier = torch.ones(m, m, dtype=torch.bool, device=context.device).tril()
        exists = torch.arange(n, device=context.device) < ends[:, None]
        visible = torch.cat([exists[:, None].expand(-1, m, n), earlier.expand(len(ends), m, m)], dim=-1)[:, None]
        states = self.digests[None]  # one row for the whole batch until the first block has looked at the contexts
        for layer in self.layers:
            states = layer(states, context, self.digests, rotation, visible)
        normalised: Tensor = self.norm(states)
        return normalised

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[b, 1, n + m, d_head]`` for positions ``[b, n + m]``; angles in fp32, bf16 loses them."""
        exponents = torch.arange(0, self.head_width, 2, device=positions.device, dtype=torch.float32) / self.head_width
        angles = positions[:, None, :, None].float() * self.rope_theta**-exponents
        doubled = torch.cat([angles, angles], dim=-1)
        return doubled.cos().to(self.digests.dtype), doubled.sin().to(self.digests.dtype)


class DigestBlock(nn.Module):
    """Cross-attention of the digests' states onto the fixed context, then a SwiGLU feed-forward; both residual."""

    def __init__(self, width: int, *, n_heads: int, n_kv_heads: int, n_inner: int, eps: float) -> None:
        super().__init__()
        kv_width = width // n_heads * n_kv_heads
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.query_norm, self.context_norm, self.inner_norm = (nn.RMSNorm(width, eps=eps) for _ in range(3))
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key, self.value = nn.Linear(width, kv_width, bias=False), nn.Linear(width, kv_width, bias=False)
        self.gate, self.up = nn.Linear(width, n_inner, bias=False), nn.Linear(width, n_inner, bias=False)
        self.down = nn.Linear(n_inner, width, bias=False)

    def forward(
        self, states: Tensor, context: Tensor, digests: Tensor, rotation: tuple[Tensor, Tensor], visible: Tensor
    ) -> Tensor:
        """One block.

        Args:
            states: ``[b, m, d]``, or ``[1, m, d]`` before the first block.
            context: ``[b, n, d]``.
            digests: ``[m, d]``, the initial ones.
            rotation: cosines and sines ``[b, 1, n + m, d_head]``.
            visible: bool ``[b, 1, m, n + m]``.
        """
        b, m = len(context), len(digests)
        words, own = self.context_norm(context), self.context_norm(digests)
        keys, values = (
            torch.cat([project(words), project(own).expand(b, -1, -1)], dim=1) for project in (self.key, self.value)
        )
        cos, sin = rotation
        attended = F.scaled_dot_product_attention(
            _rotated(
                self._heads(self.query(self.query_norm(states)), self.n_heads), cos[..., -m:, :], sin[..., -m:, :]
            ).expand(b, -1, -1, -1),
            _rotated(self._heads(keys, self.n_kv_heads), cos, sin),
            self._heads(values, self.n_kv_heads),
            attn_mask=visible,
            enable_gqa=self.n_heads != self.n_kv_heads,
        )
        states = states + self.out(attended.transpose(1, 2).flatten(2))
        normalised = self.inner_norm(states)
        fed: Tensor = self.down(F.silu(self.gate(normalised)) * self.up(normalised))
        return states + fed

    @staticmethod
    def _heads(vectors: Tensor, n_heads: int) -> Tensor:
        """``[b, n, h * d_head]`` to ``[b, h, n, d_head]``."""
        return vectors.view(*vectors.shape[:-1], n_heads, -1).transpose(1, 2)


def _rotated(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Llama's rotary embedding: a head's first half is paired with its second."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat([-second, first], dim=-1) * sin
