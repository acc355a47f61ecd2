"""Gates that learn to be zero: hard-concrete variables (L0 regularization, arXiv:1712.01312) and the multipliers that
hold an expected value at a target (structured pruning, arXiv:2204.00408).

With u uniform in (0, 1): s = sigmoid((logit u + log alpha) / beta), z = clip(s * (high - low) + low, 0, 1), so that z
is 0 or 1 with a probability of its own and has a gradient in between. P(z > 0) = sigmoid(log alpha - beta ln(-low /
high)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
NOISE_MARGIN = 1e-6
LARGEST = math.log(100)
_SHARPNESS = 0.8


class HardConcrete(nn.Module):
    """``[r, n]`` gates; each of the ``r`` rows (a layer's heads, say) is settled by itself.

    Args:
        n_rows, n_gates: ``r`` and ``n``.
        log_alpha: where they start, within plus or minus :data:`LARGEST`.
    """

    def __init__(self, n_rows: int, n_gates: int, *, log_alpha: float = LARGEST) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((n_rows, n_gates), float(log_alpha)))

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Gates ``[r, n]`` in [0, 1], random.

        Args:
            noise: uniform ``[r, n]``; drawn when None.
        """
        u = torch.rand_like(self.log_alpha) if noise is None else noise
        u = u.clamp(NOISE_MARGIN, 1 - NOISE_MARGIN)
        s = torch.sigmoid((torch.logit(u) + self.log_alpha) / BETA)
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def p_open(self) -> Tensor:
        """Probability ``[r, n]`` that a gate is not zero."""
        return torch.sigmoid(self.log_alpha - BETA * math.log(-LOW / HIGH))

    @torch.no_grad()
    def settled(self) -> Tensor:
        """The gates ``[r, n]`` that inference uses: in each row the expected number of zeros, the smallest first; the
        others keep a scale near 1, to be multiplied into the weights behind them.
        """
        n_zeros = (1 - self.p_open()).sum(dim=1).round().long()
        order = self.log_alpha.argsort(dim=1, stable=True)
        rank = order.argsort(dim=1)
        scale = torch.sigmoid(_SHARPNESS * self.log_alpha / BETA)
        return torch.where(rank < n_zeros[:, None], torch.zeros_like(scale), scale)

    @torch.no_grad()
    def hold(self) -> None:
        """Keep ``log_alpha`` where gates can still turn; to be called after each step of the optimizer. Clipping in the
        formula instead would take the gradient from a gate that once went too far.
        """
        self.log_alpha.clamp_(-LARGEST, LARGEST)


class Multipliers(nn.Module):
    """Lagrange multipliers of ``value = target``; their optimizer *climbs* (``maximize=True``)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(()))
        self.quadratic = nn.Parameter(torch.zeros(()))

    def forward(self, value: Tensor, target: float) -> Tensor:
        """Scalar ``l1 (value - target) + l2 (value - target)^2``."""
        excess = value - target
        return self.linear * excess + self.quadratic * excess.square()
