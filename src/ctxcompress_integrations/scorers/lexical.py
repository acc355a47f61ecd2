"""BM25 over the units of one request: the baseline that everything must beat. No torch, no download.

Each context word's evidence for a query term is the BM25 weight of that term (Robertson & Zaragoza, 2009,
doi:10.1561/1500000019) with sentences as the documents, so that the sum over terms of the best word in a sentence is
the BM25 score of a sentence in which no term repeats. Scripts without spaces are matched by pairs of characters.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Container, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.request import ModelFree
from ctxcompress_integrations.text.segment import segment

_TERM = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30FC\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_PART = regex.compile(rf"(?P<spaceless>{_SPACELESS}(?:{_SPACELESS}|\p{{M}})*)|(?:(?!{_SPACELESS}).)+")
"""Of a term: a product's Latin name stands in Chinese text without a space around it."""
PREFIX = 5
"""Letters after which two words count as forms of one another: a stemmer for languages that inflect at the end."""


class Lexical(ModelFree):
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

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        row_of = {term: row for row, term in enumerate(dict.fromkeys(t.text for t in _terms(request.query, {})))}
        passages = [_read(text, row_of) for text in request.texts]
        n_sentences = max(1, sum(len(p.lengths) for p in passages))
        mean_length = max(1.0, sum(sum(p.lengths) for p in passages) / n_sentences)
        seen_in = Counter(
            row for p in passages for row, _ in {(r, s) for r, s in zip(p.rows, p.homes, strict=True) if r >= 0}
        )
        idf = [np.log1p((n_sentences - seen_in[r] + 0.5) / (seen_in[r] + 0.5)) for r in range(len(row_of))]
        weight = 1 / max(1e-6, sum(idf))  # scores become shares of what the query asks for, whatever its length
        results = []
        for p in passages:
            evidence = np.zeros((max(1, len(row_of)), len(p.rows)), dtype=np.float32)
            for i, (row, home) in enumerate(zip(p.rows, p.homes, strict=True)):
                if row >= 0:
                    norm = self.k1 * (1 - self.b + self.b * p.lengths[home] / mean_length)
                    evidence[row, i] = idf[row] * (self.k1 + 1) / (1 + norm)
            results.append(Relevance(p.offsets, evidence.max(axis=0), evidence, float(weight)))
        return results


class _Term(NamedTuple):
    text: str
    start: int
    end: int


class _Passage(NamedTuple):
    """Terms of one passage: offsets ``[n, 2]``, row of the query term (-1 for none), sentence; and sentence lengths."""

    offsets: NDArray[np.int64]
    rows: list[int]
    homes: list[int]
    lengths: list[int]


def _read(text: str, row_of: Mapping[str, int]) -> _Passage:
    terms = _terms(text, row_of)
    words, first_words = segment(text)
    starts = words[first_words, 0] if len(first_words) else np.zeros(1, dtype=np.int64)
    homes: list[int] = (np.searchsorted(starts, [t.start for t in terms], side="right") - 1).clip(0).tolist()
    n_terms = Counter(homes)
    offsets = np.asarray([(t.start, t.end) for t in terms], dtype=np.int64).reshape(-1, 2)
    return _Passage(offsets, [row_of.get(t.text, -1) for t in terms], homes, [n_terms[s] for s in range(len(starts))])


def _terms(text: str, asked: Container[str]) -> list[_Term]:
    """Terms with their offsets: folded words cut to a prefix; of scripts without spaces pairs of characters, and single
    ones that stand alone or are ``asked`` for.
    """
    found: list[_Term] = []
    for match in _TERM.finditer(text):
        for part in _PART.finditer(match.group()):
            word, start = part.group(), match.start() + part.start()
            if part["spaceless"] is None:
                folded = _folded(word)
                found.append(_Term(folded if folded.isnumeric() else folded[:PREFIX], start, start + len(word)))
            elif len(word) == 1:
                found.append(_Term(_folded(word), start, start + 1))
            else:
                found += [_Term(_folded(word[i : i + 2]), start + i, start + i + 2) for i in range(len(word) - 1)]
                singles = ((i, _folded(character)) for i, character in enumerate(word))
                found += [_Term(single, start + i, start + i + 1) for i, single in singles if single in asked]
    return found


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()
