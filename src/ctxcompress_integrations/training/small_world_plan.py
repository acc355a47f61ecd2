"""How the small world is taught: its parts, and a recipe for each lesson of
:mod:`~ctxcompress_integrations.training.small_world`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ctxcompress_integrations.training import small_world_studies as studies
from ctxcompress_integrations.training.lessons import Mix
from ctxcompress_integrations.training.soft import Recipe, Stage

PARTS = {
    "autocompressor": ("autocompressor", 1, 13),
    "autocompressor-20": ("autocompressor", 1, 20),
    "pooled": ("pooled", 1, 12),
    "icae": ("icae", 2, 13),
    "icformer": ("icformer", 2, 13),
}
"""Files of summarizers: method, vectors per segment, tokens per vector of the longest segment."""
TOGETHER = ("autocompressor", "autocompressor-20", "pooled")
"""Those that learn with the reader, which is their encoder; the first alone until the reader can read vectors."""
RANK = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each lesson takes, and how."""

    copying: int = 200
    telling: int = 350
    text: int = 450
    vectors: int = 1200
    icae: int = 400
    icformer: int = 800
    batch: int = 16
    seed: int = 0

    @property
    def lessons(self) -> tuple[str, ...]:
        """In their order."""
        return ("listings", "text", "vectors", *(part for part in PARTS if part not in TOGETHER))

    def recipe(self, lesson: str) -> Recipe:
        """Of a lesson by name: "listings", "text", "vectors" or a summarizer's."""
        make: Callable[[], Recipe] = getattr(self, f"_{lesson}")
        return replace(make(), batch=self.batch, seed=self.seed, precision="bf16", warm_up=50, eval_every=50)

    def _listings(self) -> Recipe:
        copying = Mix(text_share=1.0, autoencode=0.7)
        telling = Mix(text_share=1.0, autoencode=0.0, retelling=0.8)
        return Recipe((Stage(self.copying, copying), Stage(self.telling, telling)), reader_lr=3e-4, decay=0.1)

    def _text(self) -> Recipe:
        one, several = (Mix(text_share=1.0, autoencode=0.05, n_questions=6, n_passages=n) for n in (1, 3))
        weights = {"answer": 1.0, "autoencode": 0.3}
        short, long, many = (round(self.text * share) for share in (0.1, 0.7, 0.2))
        stages = (
            Stage(short, replace(one, max_tokens=64), weights=weights),
            Stage(long, one, weights=weights),
            Stage(many, several, weights=weights),
        )
        return Recipe(stages, reader_lr=2e-4, decay=0.3)

    def _vectors(self) -> Recipe:
        telling = Mix(text_share=0.05, autoencode=1.0, retelling=0.4)
        asking = Mix(text_share=0.15, autoencode=0.0, retelling=0.3, n_questions=6)
        one, few = replace(telling, max_tokens=12, retelling=0.0), replace(telling, max_tokens=30)
        more, several = replace(telling, max_tokens=48), replace(asking, n_passages=3)
        shares = ((0.04, one, 4, 1), (0.06, few, 4, 1), (0.06, few, 8, 1), (0.15, few, None, None))
        on_listings = [
            Stage(round(self.vectors * share), mix, ratio, n_summarizers, studies.N_FACTS)
            for share, mix, ratio, n_summarizers in (*shares, (0.15, more, None, None))
        ]
        then = [Stage(round(self.vectors * share), mix) for share, mix in ((0.4, asking), (0.14, several))]
        return Recipe((*on_listings, *then), lr=1e-3, reader_lr=2.5e-4, decay=0.4)

    def _icae(self) -> Recipe:
        return self._alone(self.icae)

    def _icformer(self) -> Recipe:
        return self._alone(self.icformer)

    def _alone(self, steps: int) -> Recipe:
        mix, weights = Mix(autoencode=0.0, retelling=0.3, n_questions=6), {"answer": 1.0, "retell": 0.5}
        short = round(steps * 0.2)
        stages = (
            Stage(short, replace(mix, max_tokens=64), weights=weights),
            Stage(steps - short, mix, weights=weights),
        )
        return Recipe(stages, lr=1e-3, decay=0.4)
