"""A stage of a training in several stages: batches of numbered rows, every epoch in an order of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ctxcompress_integrations.training.loop import Group, Learner, Losses, Measure


@dataclass(frozen=True)
class Stage:
    """What is trained and how: a :class:`~ctxcompress_integrations.training.loop.Course` and what it moves.

    Attributes:
        name: of the stage; part of what decides its order of rows.
        steps, batch_size, eval_every: its length.
        n_rows: of the data.
        recipe: plain JSON that a checkpoint must agree with.
        learner: numbers of rows, step -> losses by name, whose sum is minimised.
        groups: of parameters.
        measure: what the dev curve shows.
        after: called after each step of the optimizer.
        warm_up: share of the steps that lead up to the peak learning rates; then linearly to zero.
    """

    name: str
    steps: int
    batch_size: int
    n_rows: int
    eval_every: int
    seed: int
    recipe: Mapping[str, Any]
    learner: Learner
    groups: Sequence[Group]
    measure: Measure
    after: Callable[[], None] = lambda: None
    precision: Literal["no", "bf16"] = "no"
    warm_up: float = 0.1
    clip: float = 1.0

    @property
    def plan(self) -> dict[str, Any]:
        return {**self.recipe, "stage": self.name}

    def rate_at(self, step: int) -> float:
        warm = max(1, round(self.warm_up * self.steps))
        return min(1.0, (step + 1) / warm) * (1 - step / self.steps)

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, Losses]:
        first = step * self.batch_size
        places = (divmod(place, self.n_rows) for place in range(first, first + self.batch_size))
        rows = [self._order(f"{self.seed}/{self.name}/{epoch}/{process}")[i] for epoch, i in places]
        losses: Losses = learner(rows, step)
        return torch.stack(list(losses.values())).sum(), losses

    def _order(self, drawn: str) -> Sequence[int]:
        return _order(drawn, self.n_rows)


@lru_cache(maxsize=4)
def _order(drawn: str, n_rows: int) -> Sequence[int]:
    order = list(range(n_rows))
    random.Random(drawn).shuffle(order)
    return order
