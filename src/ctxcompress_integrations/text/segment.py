"""Where words and sentences begin and end, in every script.

A *word* is a run of characters between white space; inside a run of a script that is written without spaces (Han, Kana,
Thai, Khmer ...), and inside a run too long to be a word, the default Unicode word boundaries (UAX #29) cut it further,
so that a cut never falls inside a grapheme. A *sentence* is a range of whole words.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import regex
import sentencex
from numpy.typing import NDArray

MAX_WORD = 64
"""Characters after which a run without spaces (base64, minified code) is cut at Unicode word boundaries."""
MAX_SENTENCE = 1000
"""Characters after which a "sentence" (a table, a log, text without punctuation) is cut at lines, then at words."""
SHORT = 4000
"""Characters of a text whose words are remembered beside thousands of others; of longer ones the last few are."""
MIN_CLAUSE = 60
"""Characters that a Thai, Lao, Khmer or Burmese clause needs before a single space ends it: most have no full stop."""

_RUN = regex.compile(r"\S+(?:\s\p{M}\S*)*")  # a combining mark belongs to the space before it: no cut between
_BOUNDARY = regex.compile(r"(?w)\b")
_GRAPHEME = regex.compile(r"\X")  # a word boundary can fall inside one: before Thai SARA AM after a digit
_SPACELESS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Script=Javanese}]"
)
_CLAUSE_SCRIPT = regex.compile(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_CLAUSE_GAP = regex.compile(r"(?<=[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\)\"”0-9])\s+(?=\S)")
_GERMAN = regex.compile(r"\b(?:der|das|und|ist|von|dem|ein|eine|im|mit|nicht|wurde)\b")
_ORDINAL = regex.compile(
    r"(?<!\p{N})\p{Nd}{1,2}\.\s*$"
)  # "am 19. Jahrhundert": German writes ordinals with a full stop
_SURROGATE = regex.compile(r"[\uD800-\uDFFF]")
_SCRIPT_LANGUAGE = (  # script -> the sentencex rules to use; everything else is well served by the English ones
    (regex.compile(r"[\p{Hiragana}\p{Katakana}]"), "ja"),
    (regex.compile(r"\p{Han}"), "zh"),
    (regex.compile(r"\p{Arabic}"), "ar"),
    (regex.compile(r"\p{Devanagari}"), "hi"),
    (regex.compile(r"\p{Bengali}"), "bn"),
    (regex.compile(r"\p{Greek}"), "el"),
    (regex.compile(r"\p{Armenian}"), "hy"),
    (regex.compile(r"\p{Myanmar}"), "my"),
    (regex.compile(r"\p{Ethiopic}"), "am"),
    (regex.compile(r"\p{Cyrillic}"), "ru"),
)


def well_formed(text: str) -> str:
    """``text`` with lone surrogates replaced by U+FFFD: same length, so offsets stay; native libraries need it."""
    return _SURROGATE.sub("\ufffd", text) if not text.isascii() else text


def words(text: str) -> NDArray[np.int64]:
    """Character offsets of the words, int64 ``[w, 2]``, ascending and disjoint."""
    found: list[tuple[int, int]] = []
    is_ascii = text.isascii()
    for run in _RUN.finditer(text):
        start, end = run.span()
        if end - start > MAX_WORD or not (is_ascii or _SPACELESS.search(text, start, end) is None):
            graphemes = {m.start() for m in _GRAPHEME.finditer(text, start, end)} - {start}
            cuts = [m.start() for m in _BOUNDARY.finditer(text, start, end) if m.start() in graphemes]
            found.extend(zip([start, *cuts], [*cuts, end], strict=True))
        else:
            found.append((start, end))
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)


def sentences(text: str, word_offsets: NDArray[np.int64], *, language: str | None = None) -> NDArray[np.int64]:
    """First word of each sentence, int64 ``[s]``, ascending, starting with 0; empty when there is no word.

    Args:
        text: one passage.
        word_offsets: what :func:`words` returns for it.
        language: ISO 639-1 code for sentencex; guessed from the script when None.
    """
    if not len(word_offsets):
        return np.empty(0, dtype=np.int64)
    language = language or _language(text)
    starts: list[int] = []
    for bound in sentencex.get_sentence_boundaries(language, well_formed(text)):
        start, end = bound["start_index"], bound["end_index"]
        if language == "de" and starts and _ORDINAL.search(text, starts[-1], start):
            continue
        starts.extend(_pieces(text, start, end))
    first_words = np.searchsorted(word_offsets[:, 0], np.asarray(starts, dtype=np.int64), side="left")
    return _cap_words(np.unique(np.append(first_words, 0)), word_offsets)


def segment(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Words ``[w, 2]`` and first words of sentences ``[s]`` of one passage; cached, so treat both as read-only."""
    return _short(text) if len(text) <= SHORT else _long(text)


def _segmented(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    offsets = words(text)
    starts = sentences(text, offsets)
    offsets.setflags(write=False)
    starts.setflags(write=False)
    return offsets, starts


_short, _long = lru_cache(maxsize=4096)(_segmented), lru_cache(maxsize=64)(_segmented)


def _language(text: str) -> str:
    sample = text[:2000]
    if (
        len(_GERMAN.findall(sample)) > len(sample) / 200
    ):  # in German one word in ten is among them, elsewhere hardly any
        return "de"
    if sample.isascii():
        return "en"
    return next((code for script, code in _SCRIPT_LANGUAGE if 10 * len(script.findall(sample)) > len(sample)), "en")


def _pieces(text: str, start: int, end: int) -> list[int]:
    """Starts of the parts of one sentencex sentence: clauses of scripts without a full stop, lines of long blocks."""
    starts = [start]
    if _CLAUSE_SCRIPT.search(text, start, end):
        for gap in _CLAUSE_GAP.finditer(text, start, end):
            if gap.end() - gap.start() > 1 or gap.start() - starts[-1] >= MIN_CLAUSE:
                starts.append(gap.end())
    elif end - start > MAX_SENTENCE:
        starts += [m.end() for m in regex.finditer(r"[\r\n]+", text, pos=start, endpos=end) if m.end() < end]
    return starts


def _cap_words(starts: NDArray[np.int64], word_offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut sentences that are still longer than ``MAX_SENTENCE`` characters at word boundaries."""
    starts = starts[starts < len(word_offsets)]
    ends = np.append(starts[1:], len(word_offsets))
    lengths = word_offsets[ends - 1, 1] - word_offsets[starts, 0]
    if not (lengths > MAX_SENTENCE).any():
        return starts
    capped: list[int] = []
    for first, last, length in zip(starts.tolist(), ends.tolist(), lengths.tolist(), strict=True):
        capped.append(first)
        if length > MAX_SENTENCE:
            block = (word_offsets[first:last, 1] - word_offsets[first, 0] - 1) // MAX_SENTENCE
            capped.extend((first + 1 + np.flatnonzero(np.diff(block))).tolist())
    return np.asarray(capped, dtype=np.int64)
