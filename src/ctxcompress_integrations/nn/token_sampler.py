"""Which tokens go on to the next layers: a sampler per layer (Transkimmer, arXiv:2205.07324; Infor-Coef,
arXiv:2305.12458) and the two terms by which the information bottleneck makes it drop some.

The papers' sampler is as wide as the encoder, which costs a twelfth of a dense layer and more than a layer that is
pruned to a twentieth; this one has a bottleneck. Its two logits are one here, their difference: a softmax over two
Gumbel-disturbed logits is the sigmoid of their difference disturbed by logistic noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NOISE_MARGIN = 1e-6


class TokenSampler(nn.Module):
    """States ``[n, d]`` -> log-odds ``[n]`` that a token is kept.

    No layer norm stands before it: in a post-norm encoder its input has just passed one.

    Args:
        width: ``d``.
        n_inner: width of the bottleneck.
        start: log-odds at the start; the papers' 10 keeps everything for a long time.
    """

    def __init__(self, width: int, n_inner: int, *, start: float = 10.0) -> None:
        super().__init__()
        self.down = nn.Linear(width, n_inner)
        self.up = nn.Linear(n_inner, 1)
        nn.init.normal_(self.up.weight, std=0.02)
        nn.init.constant_(self.up.bias, start)

    def forward(self, states: Tensor) -> Tensor:
        """Positive log-odds keep, in evaluation."""
        log_odds: Tensor = self.up(F.gelu(self.down(states)))[..., 0]
        return log_odds


class Draw(NamedTuple):
    """Decisions in training, any shape.

    Attributes:
        hard: 0 or 1, drawn, with the gradient of ``soft``.
        soft: its disturbed probability, in (0, 1).
        sure: 0 or 1, what evaluation decides, with the gradient of the probability itself.
    """

    hard: Tensor
    soft: Tensor
    sure: Tensor

    def joined(self, earlier: Draw | None, is_safe: Tensor) -> Draw:
        """With those of earlier layers: who was dropped stays so, and who is safe is kept."""
        kept = Draw(*(part.masked_fill(is_safe, 1) for part in self))
        return kept if earlier is None else Draw(*(a * b for a, b in zip(kept, earlier, strict=True)))


def draw(log_odds: Tensor, noise: Tensor | None = None) -> Draw:
    """Straight-through Gumbel decisions at temperature 1.

    Args:
        log_odds: ``[n]``.
        noise: uniform ``[n]``; drawn when None.
    """
    u = torch.rand_like(log_odds) if noise is None else noise
    p = torch.sigmoid(log_odds)
    soft = torch.sigmoid(log_odds + torch.logit(u.clamp(NOISE_MARGIN, 1 - NOISE_MARGIN)))
    hard, sure = ((part > 0.5).to(part.dtype) - part.detach() + part for part in (soft, p))
    return Draw(hard, soft, sure)


class Trace(NamedTuple):
    """What one sampling layer saw and decided in a training forward.

    Attributes:
        states: its input ``[n, d]``.
        draw: decisions of this and all earlier layers together, ``[n]`` each.
    """

    states: Tensor
    draw: Draw


def norm_term(traces: Sequence[Trace]) -> Tensor:
    """Mean over layers and tokens of the root mean square of ``soft * states``: scalar.

    Per token, so that it depends neither on how many texts a batch holds nor on their lengths. Packed sequences hold
    no padding to be counted.
    """
    return torch.stack([(t.draw.soft * _size(t.states)).mean() for t in traces]).mean()


def norm_share(traces: Sequence[Trace]) -> Tensor:
    """The norm term of what evaluation would keep, over that of all tokens: scalar in (0, 1].

    Decisions are not drawn here. Drawn ones can meet any target by giving every token the same odds; evaluation would
    then keep them all.
    """
    sizes = [_size(t.states) for t in traces]
    kept = torch.stack([(t.draw.sure * size).mean() for t, size in zip(traces, sizes, strict=True)]).mean()
    return kept / torch.stack([size.detach().mean() for size in sizes]).mean()


def _size(states: Tensor) -> Tensor:
    """Root mean square ``[n]``."""
    return states.square().mean(dim=-1).sqrt()


def entropy_term(traces: Sequence[Trace]) -> Tensor:
    """Mean over layers and tokens of ``p ln p + (1 - p) ln (1 - p)``, p being ``soft``: scalar, lowest where decisions
    stay open.
    """
    of_layers = []
    for trace in traces:
        p = trace.draw.soft.float().clamp(NOISE_MARGIN, 1 - NOISE_MARGIN)  # half precision rounds 1 - margin to 1
        of_layers.append((p * p.log() + (1 - p) * (1 - p).log()).mean())
    return torch.stack(of_layers).mean()
