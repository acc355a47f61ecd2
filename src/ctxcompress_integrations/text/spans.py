"""From chosen words to spans of the original and to the text that is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.records import Span


def spans_of(chosen: NDArray[np.bool_], word_offsets: NDArray[np.int64]) -> tuple[Span, ...]:
    """Spans of the runs of chosen words; words that follow one another keep the white space between them.

    Args:
        chosen: ``[w]``.
        word_offsets: ``[w, 2]``.
    """
    edges = np.diff(np.concatenate(([0], chosen.astype(np.int8), [0])))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return tuple(Span(int(word_offsets[a, 0]), int(word_offsets[b, 1])) for a, b in zip(first, last, strict=True))


def join_spans(text: str, spans: Sequence[Span], joiner: str | None = None) -> str:
    """The slices of ``spans`` in order. A removed gap leaves ``joiner``, or by default one space where it had any."""
    pieces: list[str] = []
    for i, (start, end) in enumerate(spans):
        if i:
            gap = text[spans[i - 1][1] : start]
            pieces.append(joiner if joiner is not None else " " if any(map(str.isspace, gap)) else "")
        pieces.append(text[start:end])
    return "".join(pieces)
