"""The document ranking of LongLLMLingua: how well a document predicts the question (arXiv:2310.06839)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ctxcompress_integrations.evaluation.baselines.base import by_sentence
from ctxcompress_integrations.evaluation.baselines.likelihood import DecoderScorer
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.text.segment import segment

RESTRICTION = " We can get the answer to this question in the given documents."
POSITION = 1e-4
"""Nats that separate a document's first sentence from what follows its last: less than any difference that counts."""


class LongLLMLinguaRank(DecoderScorer):
    """r_k: mean log-likelihood of ``query + RESTRICTION`` right after the document, for all of its sentences.

    The best document is taken first, from its beginning on. Only the coarse step of the paper, which by its own
    ablation makes most of the gain: no contrastive token perplexity, no reordering, no ratio per document. As in the
    release nothing stands between document and question; the two are tokenised apart, so no token spans the seam. A
    document too long for the model's window is judged by the first part that fits beside the question.

    Raises:
        ValueError: on scoring, for a query that leaves no room for a document.
    """

    name: ClassVar[str] = "longllmlingua"

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        question = self._tokenize([request.query + RESTRICTION])[0].ids
        room = self.max_tokens - len(self.prefix) - len(question)
        if room < 16:
            raise ValueError(
                f"the query takes {len(question)} of the model's {self.max_tokens} tokens and leaves no room for a "
                "passage: shorten the query or take a model with a longer window"
            )
        texts = [text for text in dict.fromkeys(request.texts) if len(segment(text)[0])]
        documents = [[*self.prefix, *tokens.ids[:room]] for tokens in self._tokenize(texts)]
        firsts = [max(1, len(document)) for document in documents]
        found = self._log_likelihoods([[*document, *question] for document in documents], firsts)
        rank = {text: float(values.mean()) for text, values in zip(texts, found, strict=True)}
        results = []
        for text in request.texts:
            n_sentences = len(segment(text)[1])
            inside = np.arange(n_sentences) / max(1, n_sentences)
            results.append(by_sentence(text, rank.get(text, 0.0) - POSITION * inside))
        return results
