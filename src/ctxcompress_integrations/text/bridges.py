"""Passages that name each other: the second hop of a question shares no words with it, but the first hop names it.

"Who is the mother of the director of Polish-Russian War?" is answered in the passage titled "Xawery Zulawski", which no
word of the question finds. The sentence that says who directed the film does, and it writes that title out. So passages
gain from what names them, sentences from what they name. Nothing is learned: titles are matched as they are written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import regex
from numpy.typing import NDArray

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.relevance import Floats
from ctxcompress_integrations.text.segment import segment

GOOD = 0.8
"""Quantile of the request's sentence scores above which a sentence, or a passage's best, lends to others."""
NAMED, NAMING = 0.75, 0.375
"""Shares of that excess that go to every sentence of the passage that is named, and to the sentence that names one."""
MIN_TITLE = 4
"""Characters of a title worth looking for: shorter ones are written everywhere."""
_SUFFIX = regex.compile(r"\s*\([^()]*\)\s*$")  # "Mercury (planet)" is written "Mercury"


def bridged(texts: Sequence[str], titles: Sequence[str], relevances: Sequence[Relevance]) -> list[Relevance]:
    """The relevances with one more row of evidence wherever a passage's title is written in another's sentence.

    With ``x`` the excess of a sentence's score over the ``GOOD`` quantile, a passage that a sentence names gains
    ``NAMED * x`` in all its sentences, and a sentence that names a passage gains ``NAMING`` times the excess of that
    passage's best one; the largest gain counts, once.

    Args:
        texts: of one request's passages.
        titles: of each, "" for none; passages of one title do not name each other.
        relevances: of each, whose scores compare across passages.
    """
    names = [name_of(title) for title in titles]
    if len(set(names) - {""}) < 2:
        return list(relevances)
    places = [_Sentences(text, relevance) for text, relevance in zip(texts, relevances, strict=True)]
    scores = np.concatenate([place.scores for place in places])
    if not len(scores):
        return list(relevances)
    floor = float(np.quantile(scores, GOOD))
    excess = [np.maximum(place.scores - floor, 0) for place in places]
    gains = [np.zeros_like(of_passage) for of_passage in excess]
    naming = _naming(texts, names, places)
    for passage, name in enumerate(names):
        best = excess[passage].max(initial=0)
        for other, sentence in naming.get(name, ()):
            gains[passage] = np.maximum(gains[passage], NAMED * excess[other][sentence])
            gains[other][sentence] = max(gains[other][sentence], NAMING * best)
    return [
        _with_row(relevance, gain[place.of_token]) if gain.any() else relevance
        for relevance, gain, place in zip(relevances, gains, places, strict=True)
    ]


def name_of(title: str) -> str:
    """How a text would write a title: without underscores and without what stands in brackets behind it."""
    name = _SUFFIX.sub("", title.replace("_", " ")).strip()
    return name if len(name) >= MIN_TITLE else ""


class _Sentences:
    """The sentences of one passage that have tokens: first characters, scores, and the sentence of each token."""

    def __init__(self, text: str, relevance: Relevance) -> None:
        words, first_words = segment(text)
        starts: NDArray[np.int64] = words[first_words, 0] if len(first_words) else np.zeros(1, dtype=np.int64)
        sentence = np.maximum(np.searchsorted(starts, relevance.offsets[:, 0], side="right") - 1, 0)
        found, first_tokens, of_token = np.unique(sentence, return_index=True, return_inverse=True)
        self.starts, self.of_token = starts[found], of_token
        self.scores: Floats = np.zeros(0, dtype=np.float32)
        if len(found):
            best = np.maximum.reduceat(relevance.rows, first_tokens, axis=1)
            self.scores = best.sum(axis=0) * np.float32(relevance.weight)


def _naming(
    texts: Sequence[str], names: Sequence[str], places: Sequence[_Sentences]
) -> Mapping[str, list[tuple[int, int]]]:
    """For each name, the (passage, sentence) pairs of other passages that write it as a word of its own."""
    written = regex.compile(r"(?<!\w)\L<names>(?!\w)", names=sorted(set(names) - {""}))
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, (text, name, place) in enumerate(zip(texts, names, places, strict=True)):
        for match in written.finditer(text) if len(place.starts) else ():
            if match.group() != name:
                sentence = max(0, int(np.searchsorted(place.starts, match.start(), side="right")) - 1)
                found[match.group()].append((number, sentence))
    return found


def _with_row(relevance: Relevance, row: Floats) -> Relevance:
    """One more row ``[n]`` in units of the score."""
    evidence = np.concatenate([relevance.rows, row[None] / np.float32(relevance.weight)])
    return replace(relevance, evidence=evidence)
