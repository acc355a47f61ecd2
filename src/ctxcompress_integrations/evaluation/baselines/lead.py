"""Lead: keep the beginning of the joined context."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ctxcompress_integrations.evaluation.baselines.base import by_sentence
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.request import ModelFree
from ctxcompress_integrations.text.segment import segment


class Lead(ModelFree):
    """Minus the number of sentences (words, for phrases) that stand before: the order of passages, then of the text.

    Under a retriever's order this is also "the first passages, cut where the budget ends".
    """

    name: ClassVar[str] = "lead"

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        n_words = n_sentences = 0
        results = []
        for text in request.texts:
            words, first_words = segment(text)
            before = n_sentences + np.arange(len(first_words))
            results.append(by_sentence(text, -before, -(n_words + np.arange(len(words)))))
            n_words, n_sentences = n_words + len(words), n_sentences + len(first_words)
        return results
