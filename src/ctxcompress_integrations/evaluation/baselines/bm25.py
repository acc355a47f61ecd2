"""BM25 as people run it: the library bm25s (arXiv:2407.03618) over the sentences of one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.evaluation.baselines.base import by_sentence, sentences_of
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.request import ModelFree
from ctxcompress_integrations.text.segment import well_formed


class BM25(ModelFree):
    """Lucene's BM25 of each sentence, the sentences of all passages being the corpus.

    Everything is the library's default: k1 1.5, b 0.75, lower case, English stop words left out, no stemmer, words of
    two letters or more. So scripts without spaces match by whole clauses, and a query of stop words alone finds
    nothing: all scores are then 0. Words of a sentence share its score: under phrases the best sentence comes first.
    """

    name: ClassVar[str] = "bm25"

    def __init__(self) -> None:
        require("bm25s", extra="eval")

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        passages = [sentences_of(text) for text in request.texts]
        scores = iter(_scores([s for passage in passages for s in passage], well_formed(request.query)).tolist())
        return [
            by_sentence(text, [next(scores) for _ in passage])
            for text, passage in zip(request.texts, passages, strict=True)
        ]


def _scores(sentences: Sequence[str], query: str) -> NDArray[np.float32]:
    """float32 ``[s]``."""
    bm25s = require("bm25s", extra="eval")
    *corpus, asked = bm25s.tokenize([*sentences, query], return_ids=False, show_progress=False)
    known = {token for tokens in corpus for token in tokens}
    asked = [token for token in asked if token in known]
    if not asked:  # the library raises for an empty query and for an empty vocabulary
        return np.zeros(len(sentences), dtype=np.float32)
    index = bm25s.BM25(method="lucene")
    index.index(corpus, show_progress=False)
    found: NDArray[np.float32] = index.get_scores(asked)
    return found
