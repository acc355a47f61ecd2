"""Patterns whose matches survive compression: numbers with units, dates, URLs, code, or any regular expression."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|januar|februar|märz|mai|juni|juli|oktober|dezember)\w*\.?"
_NUMBER = r"[+\-\u2212]?\p{Nd}+(?:[.,'\u00a0\u202f]\p{Nd}+)*"
_UNIT = (
    r"(?:%|‰|°\s?[CFK]?|\p{Sc}|[kMGTm]?(?:B|b|Hz|W|Wh|V|A|J|Pa|bit)|[kcmnµ]?(?:m|g|l|s)[²³]?|km/h|m/s|mph|kph|mi|ft|in|yd|lb|lbs|oz"
    r"|ha|min|h|hrs?|K|(?:m|b|tr)illions?|thousand|hundred|percent|Mio|Mrd|Prozent)"
)
PATTERNS = {
    "numbers": rf"\p{{Sc}}?\s?{_NUMBER}(?:\s?{_UNIT}(?!\p{{L}}))?",
    "dates": rf"\p{{Nd}}{{4}}-\p{{Nd}}{{1,2}}-\p{{Nd}}{{1,2}}|\p{{Nd}}{{1,2}}[./]\p{{Nd}}{{1,2}}[./]\p{{Nd}}{{2,4}}"
    rf"|(?i:{_MONTH})\s+\p{{Nd}}{{1,2}}(?:st|nd|rd|th)?,?\s+\p{{Nd}}{{4}}"
    rf"|\p{{Nd}}{{1,2}}\.?\s+(?i:{_MONTH})\s+\p{{Nd}}{{4}}|\p{{Nd}}{{4}}年(?:\p{{Nd}}{{1,2}}月)?(?:\p{{Nd}}{{1,2}}日)?",
    "urls": r"(?:https?|ftp)://[^\s<>\"']+|www\.[^\s<>\"']+|[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+",
    "code": r"```[\s\S]*?```|`[^`\n]+`",
}


@lru_cache(maxsize=64)
def _compiled(name: str) -> regex.Pattern[str]:
    try:
        return regex.compile(PATTERNS.get(name, name))
    except regex.error as error:
        raise ValueError(
            f"protect={name!r} is neither one of {sorted(PATTERNS)} nor a valid regular expression: {error}"
        ) from error


def check_patterns(protect: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names or expressions as a tuple; ``ValueError`` for one that is neither."""
    if protect is None:
        return ()
    names = (protect,) if isinstance(protect, str) else tuple(protect)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"protect takes names or regular expressions, got {name!r}")
        _compiled(name)
    return names


def protected_groups(text: str, word_offsets: NDArray[np.int64], names: Sequence[str]) -> list[tuple[int, int]]:
    """Word ranges ``[first, last)`` that hold one match each, in document order, without repeats."""
    groups: set[tuple[int, int]] = set()
    for name in names:
        for match in _compiled(name).finditer(text):
            if match.end() == match.start():
                continue  # nothing to keep
            first = int(np.searchsorted(word_offsets[:, 1], match.start(), side="right"))
            last = int(np.searchsorted(word_offsets[:, 0], match.end(), side="left"))
            if last > first:
                groups.add((first, last))
    return sorted(groups)
