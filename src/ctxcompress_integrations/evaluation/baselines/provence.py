"""Provence and OpenProvence: a reranker that also labels the sentences to keep (arXiv:2501.16214)."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from itertools import pairwise
from typing import Any, ClassVar, Self

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.evaluation.baselines.base import by_sentence, sentences_of
from ctxcompress_integrations.hf.load import load_pruner
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest, refuse
from ctxcompress_integrations.scorers.request import RequestScorer
from ctxcompress_integrations.text.segment import well_formed

LADDER = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


class Provence(RequestScorer):
    """The highest threshold of a ladder at which a sentence survives; 0 for one that survives none.

    The release prunes by one threshold (0.1) and has no budget; the ladder turns it into a ranking without looking
    inside. So the model runs once per rung, and the time taken says nothing about Provence. Sentences on one rung come
    in the order of the passages. A sentence survives when its text, white space aside, is in the pruned context: one
    that the model's own splitter cuts differently must survive whole, and one that repeats survives with its twin.

    Args:
        model: an object with ``process(question, context, threshold=...) -> {"pruned_context": str}``.
        ladder: ascending thresholds in (0, 1).

    Raises:
        UnsupportedModelError: no such method.
    """

    name: ClassVar[str] = "provence"

    def __init__(self, model: Any, *, ladder: Sequence[float] = LADDER) -> None:
        if not callable(getattr(model, "process", None)):
            raise UnsupportedModelError(f"{type(model).__name__} has no method process(question, context, threshold)")
        if not ladder or not all(a < b for a, b in pairwise((0.0, *ladder, 1.0))):
            raise ValueError(f"ladder must be ascending thresholds in (0, 1), got {ladder!r}")
        self.model, self.ladder = model, tuple(ladder)
        self._quietly = {"show_progress": False} if "show_progress" in signature(model.process).parameters else {}

    @classmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """As :meth:`Scorer.load`; ``trust_remote_code=True`` lets the checkpoint run its own code, which it needs."""
        refuse(cls.name, layer=layer, weights=weights)
        if model is None:
            raise ValueError(
                f"{cls.name} needs a checkpoint: pass model='naver/provence-reranker-debertav3-v1' or another name or "
                "folder, and trust_remote_code=True"
            )
        return cls(load_pruner(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code))

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        query = well_formed(request.query)
        return [by_sentence(text, self._values(text, query)) for text in request.texts]

    def _values(self, text: str, query: str) -> list[float]:
        sentences = [_squeezed(s) for s in sentences_of(text)]
        values = [0.0] * len(sentences)
        for threshold in self.ladder if sentences else ():
            output = self.model.process(query, well_formed(text), threshold=threshold, **self._quietly)
            pruned = _squeezed(output["pruned_context"])
            if not pruned:
                break
            values = [threshold if s in pruned else v for s, v in zip(sentences, values, strict=True)]
        return values


def _squeezed(text: str) -> str:
    return "".join(text.split())
