"""What an adapter learns from and how: the recipe of LLoCO (arXiv:2404.07979), and its epochs over stored summaries."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from ctxcompress_integrations.pipeline import PROMPT
from ctxcompress_integrations.training.checkpoint import data_digest
from ctxcompress_integrations.training.lessons import Lesson
from ctxcompress_integrations.training.loop import FromRecipe, Losses, plain


@dataclass(frozen=True, slots=True)
class LlocoRecipe:
    """Everything that decides the outcome beside the data.

    Attributes:
        rank, alpha, dropout: of the adapter.
        layers: names of the linear layers that it is put on; None for the attention's.
        batch: passages per step; each with up to ``n_questions`` of its questions.
        warm_up: share of the steps; then a cosine to zero.
        max_answer: tokens of the longest answer.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    layers: tuple[str, ...] | None = None
    lr: float = 2e-5
    epochs: int = 3
    batch: int = 8
    n_questions: int = 4
    warm_up: float = 0.04
    clip: float = 1.0
    seed: int = 0
    precision: Literal["no", "bf16"] = "no"
    prompt: str = PROMPT
    max_answer: int = 128
    recomputes: bool = False
    eval_every: int = 100


class StoredVectors:
    """Summaries of an index in the place of a summarizer: vectors ``[m, d]`` by the text that they stand for."""

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self._vectors = vectors

    def written(self, texts: Sequence[str]) -> list[Tensor]:
        return [self._vectors[text] for text in texts]


@dataclass(frozen=True)
class LlocoCourse(FromRecipe):
    """Epochs over lessons, each in an order of its own."""

    recipe: LlocoRecipe
    lessons: Sequence[Lesson]
    stored: StoredVectors
    fingerprint: str

    @cached_property
    def plan(self) -> dict[str, Any]:
        return {**plain(self.recipe), "fingerprint": self.fingerprint, "data": data_digest(self.lessons)}

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self._per_epoch

    @property
    def _per_epoch(self) -> int:
        return len(self.lessons) // self.recipe.batch

    def rate_at(self, step: int) -> float:
        warm_up = max(1, round(self.steps * self.recipe.warm_up))
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, self.steps - warm_up)))

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, Losses]:
        epoch, place = divmod(step, self._per_epoch)
        order = list(range(len(self.lessons)))
        random.Random(f"{self.recipe.seed}/{epoch}/{process}").shuffle(order)
        chosen = order[place * self.recipe.batch : (place + 1) * self.recipe.batch]
        losses: Losses = learner([self.lessons[i] for i in chosen], self.stored)
        return losses["answer"], losses
