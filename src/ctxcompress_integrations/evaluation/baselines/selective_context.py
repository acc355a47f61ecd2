"""Selective Context: keep what a language model finds surprising (arXiv:2310.06201)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.evaluation.baselines.base import sentences_of
from ctxcompress_integrations.evaluation.baselines.likelihood import DecoderScorer
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.text.segment import segment


class SelectiveContext(DecoderScorer):
    """Self-information ``-log p`` of each token, every sentence read alone after a BOS; the query is not looked at.

    A sentence is worth the mean over its tokens, a phrase (here: a word) the maximum over its own. Differences from
    the release: its default unit is a spaCy noun phrase, which is not rebuilt here; its cut is a percentile, here a
    budget. A sentence beyond the window is read in windows that overlap by half, where the release cannot read it. With
    neither BOS nor EOS the first token of a sentence cannot be scored: it counts as the mean of the others.
    """

    name: ClassVar[str] = "selective_context"

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        passages = [sentences_of(text) for text in request.texts]
        tokens = self._tokenize([s for passage in passages for s in passage])
        read = zip(tokens, self._information([t.ids for t in tokens]), strict=True)
        results = []
        for text, passage in zip(request.texts, passages, strict=True):
            words, first_words = segment(text)
            offsets, scores, means = [np.empty((0, 2), dtype=np.int64)], [np.empty(0, dtype=np.float32)], []
            for _, first in zip(passage, first_words, strict=True):
                sentence, information = next(read)
                offsets.append(sentence.offsets + words[first, 0])
                scores.append(information)
                means.append(np.full_like(information, information.mean() if len(information) else 0.0))
            evidence = np.concatenate([scores[0], *means])
            results.append(Relevance(np.concatenate(offsets), np.concatenate(scores), evidence[None]))
        return results

    def _information(self, sentences: Sequence[list[int]]) -> list[NDArray[np.float32]]:
        """``-log p`` of each token of each sentence, float32 ``[n]``."""
        sequences, firsts, homes = [], [], []
        for home, ids in enumerate(sentences):
            for start, first, end in _windows(len(ids), self.max_tokens - len(self.prefix)):
                sequences.append([*self.prefix, *ids[start:end]])
                firsts.append(max(1, len(self.prefix) + first - start))
                homes.append(home)
        parts: list[list[NDArray[np.float32]]] = [[] for _ in sentences]
        for home, found in zip(homes, self._log_likelihoods(sequences, firsts), strict=True):
            parts[home].append(-found)
        return [_complete(found, len(ids)) for found, ids in zip(parts, sentences, strict=True)]


def _windows(n_tokens: int, room: int) -> Iterator[tuple[int, int, int]]:
    """``(start, first, end)``: tokens ``[start, end)`` are read, those from ``first`` on are scored."""
    first = 0
    while first < n_tokens:
        start = max(0, first - room // 2)
        end = min(n_tokens, start + room)
        yield start, first, end
        first = end


def _complete(parts: Sequence[NDArray[np.float32]], n_tokens: int) -> NDArray[np.float32]:
    """The windows of one sentence in one row, with a value for a first token that nothing stands before."""
    scored = np.concatenate([np.empty(0, dtype=np.float32), *parts])
    if len(scored) == n_tokens:
        return scored
    return np.append(scored.mean() if len(scored) else np.float32(0), scored).astype(np.float32)
