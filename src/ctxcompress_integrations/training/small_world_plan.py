"""How the small world is taught: its parts, and a recipe for each lesson of
:mod:`~ctxcompress_integrations.training.small_world`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ctxcompress_integrations.training.lessons import KINDS, Mix
from ctxcompress_integrations.training.soft import Recipe, Stage

PARTS = ("autocompressor", "pooled", "icae", "icformer")
TOGETHER = ("autocompressor", "pooled")
"""Those that learn with the reader, which is their encoder."""
N_VECTORS, RATIO, TIGHT = 1, 13, 18
"""Vectors of a segment, its tokens, and those of the segments that an adapter for a domain reads."""
RANK = 32


_TOLD = Mix(text_share=0.1, autoencode=0.0, retelling=0.4)
_ASKED = replace(_TOLD, retelling=0.15)
_AMONG = replace(_TOLD, retelling=0.1, n_questions=5, text_share=0.3, max_text=300)
_RATIOS = (RATIO, RATIO, TIGHT)
_LIKE: dict[str, float] = dict.fromkeys((*KINDS, "imitate"), 1.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each lesson takes, and how."""

    copying: int = 200
    telling: int = 350
    text: int = 450
    superposed: int = 320
    imitated: int = 150
    vectors: int = 400
    several: int = 600
    icae: int = 350
    icformer: int = 500
    batch: int = 16
    seed: int = 0

    @property
    def lessons(self) -> tuple[str, ...]:
        """In their order."""
        return ("listings", "text", "superposed", "vectors", *(part for part in PARTS if part not in TOGETHER))

    def recipe(self, lesson: str) -> Recipe:
        """Of a lesson by name; prompts of vectors are short, and half as many more make a batch."""
        make: Callable[[], Recipe] = getattr(self, f"_{lesson}")
        batch = self.batch if lesson in ("listings", "text") else self.batch * 3 // 2
        return replace(make(), batch=batch, seed=self.seed, precision="bf16", warm_up=50, eval_every=50)

    def _listings(self) -> Recipe:
        copying = Mix(text_share=1.0, autoencode=0.7)
        telling = Mix(text_share=1.0, autoencode=0.0, retelling=0.8)
        return Recipe((Stage(self.copying, copying), Stage(self.telling, telling)), reader_lr=3e-4, decay=0.1)

    def _text(self) -> Recipe:
        one = Mix(text_share=1.0, autoencode=0.05, n_questions=6)
        weights = {"answer": 1.0, "autoencode": 0.3}
        short, long, many = (round(self.text * share) for share in (0.1, 0.25, 0.65))
        stages = (
            Stage(short, replace(one, max_tokens=64), weights=weights),
            Stage(long, one, weights=weights),
            Stage(many, replace(one, n_passages=4), weights=weights),
        )
        return Recipe(stages, reader_lr=2e-4, decay=0.3)

    def _superposed(self) -> Recipe:
        shares = ((0.15, 2), (0.15, 3), (0.25, 5), (0.45, RATIO))
        stages = tuple(Stage(round(self.superposed * share), _TOLD, ratio) for share, ratio in shares)
        return Recipe(stages, reader_lr=3e-4, decay=0.1)

    def _vectors(self) -> Recipe:
        few, many = (replace(_AMONG, n_passages=n) for n in (4, 8))
        stages = (
            Stage(self.imitated, _TOLD, weights=_LIKE),
            Stage(self.vectors, _ASKED),
            Stage(self.several // 3, few, _RATIOS),
            Stage(self.several - self.several // 3, many, _RATIOS),
        )
        return Recipe(stages, lr=2e-3, reader_lr=3e-4, decay=self.several / sum(stage.steps for stage in stages))

    def _icae(self) -> Recipe:
        return self._alone(self.icae)

    def _icformer(self) -> Recipe:
        return self._alone(self.icformer)

    def _alone(self, steps: int) -> Recipe:
        stages = (
            Stage(round(steps * 0.4), _ASKED, _RATIOS, weights=_LIKE),
            Stage(round(steps * 0.6), _ASKED, _RATIOS),
        )
        return Recipe(stages, lr=1e-3, decay=0.4)
