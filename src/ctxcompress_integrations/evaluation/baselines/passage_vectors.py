"""Retrieval order: passages by the cosine of their vector with the query's, their sentences from the first on."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ctxcompress_integrations.evaluation.baselines.base import by_sentence, sentences_of
from ctxcompress_integrations.evaluation.baselines.sentence_vectors import SentenceVectors
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.text.segment import well_formed

STEP = 1e-6
"""By which a sentence is worth less than the one before it: far below the differences between passages."""


class PassageVectors(SentenceVectors):
    """What a retriever gives without any compression: the best passages, cut where the budget ends.

    A title is embedded before its text, as LlamaIndex does.

    A passage longer than the embedder reads (256 tokens for "mini") is judged by its beginning.
    """

    name: ClassVar[str] = "passage_vectors"

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        if not request.texts:
            return []
        query = self.embedder.embed_query(well_formed(request.query))
        titles = request.titles or [""] * len(request.texts)
        texts = [f"{title}\n{text}" if title else text for title, text in zip(titles, request.texts, strict=True)]
        vectors = self._vectors([well_formed(text) or "." for text in texts])
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        cosines = vectors @ query / np.maximum(norms, 1e-12)
        return [
            by_sentence(text, cosine - STEP * np.arange(len(sentences_of(text))))
            for text, cosine in zip(request.texts, cosines, strict=True)
        ]
