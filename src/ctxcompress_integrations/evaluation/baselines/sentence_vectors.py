"""Cosine between the vectors of the query and of each sentence, as in LlamaIndex's SentenceEmbeddingOptimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.evaluation.baselines.base import by_sentence, sentences_of
from ctxcompress_integrations.hf.load import MINI, load_embedder
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest, refuse
from ctxcompress_integrations.scorers.request import RequestScorer
from ctxcompress_integrations.text.segment import well_formed

KNOWN_TEXTS = 50_000


class SentenceVectors(RequestScorer):
    """One vector per sentence, read alone.

    Differences from LlamaIndex: one budget over all passages instead of a percentile of each, and the package's
    sentences instead of NLTK's. A sentence longer than the embedder reads (256 tokens for "mini") is judged by its
    beginning, there as here.

    Args:
        embedder: ``embed_documents(texts) -> [n, d]`` and ``embed_query(text) -> [d]``.
    """

    name: ClassVar[str] = "sentence_vectors"

    def __init__(self, embedder: Any) -> None:
        self.embedder = embedder
        self._known: dict[str, NDArray[np.float32]] = {}

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
        """As :meth:`Scorer.load`; ``model`` is "mini" or a sentence-transformers name."""
        refuse(cls.name, layer=layer, weights=weights)
        return cls(load_embedder(model or MINI, device=device, dtype=dtype))

    def count_tokens(self, text: str) -> int:
        """The embedder's tokens; words for one that does not count."""
        count = getattr(self.embedder, "count_tokens", super().count_tokens)
        return int(count(well_formed(text)))

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``[n, d]``; remembered, because the questions of a data set are asked of the same passages."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            if len(self._known) > KNOWN_TEXTS:
                self._known.clear()
                missing = list(dict.fromkeys(texts))
            self._known |= dict(zip(missing, self.embedder.embed_documents(missing), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        passages = [sentences_of(text) for text in request.texts]
        sentences = [s for passage in passages for s in passage]
        cosines = np.zeros(0, dtype=np.float32)
        if sentences:
            query = self.embedder.embed_query(well_formed(request.query))
            vectors = self._vectors(sentences)
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
            cosines = vectors @ query / np.maximum(norms, 1e-12)
        found = iter(cosines.tolist())
        return [
            by_sentence(text, [next(found) for _ in passage])
            for text, passage in zip(request.texts, passages, strict=True)
        ]
