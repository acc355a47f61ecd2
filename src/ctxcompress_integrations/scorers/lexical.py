"""BM25 over the units of one request: the baseline that everything must beat. No torch, no download.

Each context word's evidence for a query term is the BM25 weight of that term (Robertson & Zaragoza, 2009,
doi:10.1561/1500000019) with sentences as the documents, so that the sum over terms of the best word in a sentence is
the BM25 score of a sentence in which no term repeats. Scripts without spaces are matched by pairs of characters.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import regex

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import Scorer, ScoreRequest, refuse
from ctxcompress_integrations.text.segment import segment

_TERM = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
PREFIX = 5
"""Letters after which two words count as forms of one another: a stemmer for languages that inflect at the end."""


class Lexical(Scorer):
    """BM25 evidence per word.

    Args:
        k1: saturation of repeated terms.
        b: how far long sentences are penalised, in [0, 1].
    """

    name: ClassVar[str] = "lexical"

    def __init__(self, *, k1: float = 1.2, b: float = 0.3) -> None:
        if not k1 >= 0:
            raise ValueError(f"k1 must be >= 0, got {k1!r}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must be in [0, 1], got {b!r}")
        self.k1, self.b = k1, b

    @classmethod
    def load(
        cls, *, model: Any = None, device: str = "auto", dtype: str = "auto", layer: int | None = None, weights: Any = None
    ) -> Self:
        refuse(cls.name, model=model, layer=layer, weights=weights)
        return cls()

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[Relevance]]:
        return [self._score_request(request) for request in requests]

    def count_tokens(self, text: str) -> int:
        return len(segment(text)[0])

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        query_terms = list(dict.fromkeys(term for term, _, _ in _terms(request.query)))
        row_of = {term: row for row, term in enumerate(query_terms)}
        matched = [[(row_of.get(term), start, end) for term, start, end in _terms(text)] for text in request.texts]
        seen_in: Counter[int] = Counter()
        lengths: list[list[int]] = []
        homes: list[list[int]] = []  # sentence of each term
        for text, terms in zip(request.texts, matched, strict=True):
            words, first_words = segment(text)
            starts = words[first_words, 0] if len(first_words) else np.empty(0, dtype=np.int64)
            home = (np.searchsorted(starts, [start for _, start, _ in terms], side="right") - 1).clip(0).tolist()
            homes.append(home)
            length = Counter(home)
            lengths.append([length[s] for s in range(max(1, len(starts)))])
            seen_in.update(row for row, _ in {(row, s) for (row, _, _), s in zip(terms, home, strict=True)} if row is not None)
        n_sentences = max(1, sum(map(len, lengths)))
        mean_length = max(1.0, sum(map(sum, lengths)) / n_sentences)
        idf = [np.log1p((n_sentences - seen_in[r] + 0.5) / (seen_in[r] + 0.5)) for r in range(len(query_terms))]
        results = []
        for terms, home, length in zip(matched, homes, lengths, strict=True):
            offsets = np.asarray([(start, end) for _, start, end in terms], dtype=np.int64).reshape(-1, 2)
            evidence = np.zeros((max(1, len(query_terms)), len(terms)), dtype=np.float32)
            for i, ((row, _, _), s) in enumerate(zip(terms, home, strict=True)):
                if row is not None:
                    norm = self.k1 * (1 - self.b + self.b * length[s] / mean_length)
                    evidence[row, i] = idf[row] * (self.k1 + 1) / (1 + norm)
            results.append(Relevance(offsets, evidence.max(axis=0), evidence))
        return results


def _terms(text: str) -> list[tuple[str, int, int]]:
    """Terms with their character offsets: folded words cut to a prefix, or pairs of characters where none are spaced."""
    found: list[tuple[str, int, int]] = []
    for match in _TERM.finditer(text):
        word, (start, end) = match.group(), match.span()
        if _SPACELESS.search(word) and len(word) > 1:
            found += [(word[i : i + 2], start + i, start + i + 2) for i in range(len(word) - 1)]
        else:
            folded = unicodedata.normalize("NFKC", word).casefold()
            found.append((folded if folded.isnumeric() else folded[:PREFIX], start, end))
    return found
