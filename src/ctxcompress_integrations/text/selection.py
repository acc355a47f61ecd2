"""The words of a request that are kept so far, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.text.budget import Meter
from ctxcompress_integrations.text.spans import join_spans, spans_of

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredWords:
    """One passage, ready for selection.

    Attributes:
        text: the passage.
        words: ``[w, 2]`` character offsets.
        first_words: ``[s]`` first word of each sentence.
        rows: float32 ``[q, w]`` evidence per word, weighted so that passages compare.
        scores: float32 ``[w]`` relevance per word, likewise.
    """

    text: str
    words: NDArray[np.int64]
    first_words: NDArray[np.int64]
    rows: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Unit:
    """A run of words of one passage, kept or cut as one."""

    passage: int
    first: int
    last: int  # one past
    score: float


class Selection:
    """The words kept so far, and exact counts of the text that they make."""

    def __init__(self, passages: Sequence[ScoredWords], meter: Meter, joiner: str | None) -> None:
        self.passages, self.meter, self.joiner = passages, meter, joiner
        self.masks: list[Mask] = [np.zeros(len(p.words), dtype=bool) for p in passages]
        self._texts = [""] * len(passages)

    def reset(self, units: Sequence[Unit]) -> None:
        """Keep these units and nothing else; units may overlap (a protected match inside a sentence)."""
        for mask in self.masks:
            mask[:] = False
        for unit in units:
            self.masks[unit.passage][unit.first : unit.last] = True
        for i in range(len(self.passages)):
            self._render(i)

    def flip(self, unit: Unit, on: bool) -> Mask:
        """Set the unit's words; returns the mask as it was, for :meth:`restore`."""
        before = self.masks[unit.passage].copy()
        self.masks[unit.passage][unit.first : unit.last] = on
        self._render(unit.passage)
        return before

    def restore(self, unit: Unit, before: Mask) -> None:
        """Undo :meth:`flip`."""
        self.masks[unit.passage] = before
        self._render(unit.passage)

    def _render(self, i: int) -> None:
        passage = self.passages[i]
        self._texts[i] = join_spans(passage.text, spans_of(self.masks[i], passage.words), self.joiner)

    def n_tokens(self) -> int:
        """Exact tokens of what is kept now."""
        return self.meter.total(self._texts)

    def cost(self, unit: Unit) -> int:
        """Tokens of a unit counted alone, with the white space that joins it to what stands before."""
        passage = self.passages[unit.passage]
        start, end = int(passage.words[unit.first, 0]), int(passage.words[unit.last - 1, 1])
        lead = " " if start and passage.text[start - 1].isspace() else ""
        return self.meter.count(lead + passage.text[start:end])

    def n_tokens_with(self, unit: Unit) -> int:
        """Exact tokens when the unit is kept, too."""
        before = self.flip(unit, on=True)
        n_tokens = self.n_tokens()
        self.restore(unit, before)
        return n_tokens
