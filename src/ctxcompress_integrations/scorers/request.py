"""Scorers that look at a whole request at once, one request after the other, with or without a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import Scorer, ScoreRequest, refuse
from ctxcompress_integrations.text.segment import segment


class RequestScorer(Scorer):
    """A scorer that takes one request at a time: subclasses write :meth:`_score_request`."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[Relevance]]:
        return [self._score_request(request) for request in requests]

    @abstractmethod
    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        """One relevance per text of the request."""

    def count_tokens(self, text: str) -> int:
        return len(segment(text)[0])  # words, where the method has no vocabulary of its own


class ModelFree(RequestScorer):
    """A scorer without a model: nothing to load."""

    @classmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
    ) -> Self:
        refuse(cls.name, model=model, layer=layer, weights=weights)
        return cls()
