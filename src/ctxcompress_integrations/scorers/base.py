"""The ladder that scorers stand on: a whole request, or (lower rung) one passage under one query at a time.

A scorer knows nothing of budgets, units or hosts. To add a model-based method, subclass :class:`PairScorer` and write
``_score_batch``; windows over long passages, batching and merging are done here.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.segment import well_formed

KNOWN_TEXTS, KNOWN_LENGTH = 2048, 4_000
"""How many texts have their token offsets remembered, and how many characters each may have."""


class ScoreRequest(NamedTuple):
    """The texts of one request and its query.

    Attributes:
        titles: of each text, "" for none; empty when no text has one. A scorer may read them, nothing of them is kept.
    """

    texts: Sequence[str]
    query: str
    titles: Sequence[str] = ()


class Scorer(ABC):
    """Query + passages -> one :class:`Relevance` per passage.

    Attributes:
        name: registry key.
        sigma: standard deviation, in words, of the Gaussian smoothing that the method asks for; 0 for none.
        thresholds: calibrated ones by the share of answers that was lost under them, as text ("0.01"); may be empty.
        reads_long: whether ``load`` takes ``long_input``.
        has_fast: whether it takes ``fast``, for a form that ships, in place of ``model`` and ``weights``.
    """

    name: ClassVar[str]
    reads_long: ClassVar[bool] = False
    has_fast: ClassVar[bool] = False
    sigma: float = 0.0
    thresholds: Mapping[str, float] = MappingProxyType({})

    @classmethod
    @abstractmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
    ) -> Self:
        """Make a scorer from names; the only method of a scorer that may load a model or reach a network.

        Raises:
            ValueError: for an argument, not None, that this scorer has no use for.
        """

    @abstractmethod
    def score(self, requests: Sequence[ScoreRequest]) -> list[list[Relevance]]:
        """Score every text of every request under its own query: same order, one list per request.

        The result for a request does not depend on the requests beside it.
        """

    @property
    def default_threshold(self) -> float:
        """The threshold under which 1 % of the answers were lost.

        Raises:
            ValueError: this scorer was never calibrated.
        """
        if "0.01" not in self.thresholds:
            raise ValueError(f"the scorer {self.name!r} has no calibrated threshold: give a number instead of 'auto'")
        return self.thresholds["0.01"]

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` in this scorer's own vocabulary, without special tokens."""


def refuse(name: str, **arguments: object) -> None:
    """``ValueError`` naming the first argument that is not None: the scorer ``name`` has no use for it."""
    for argument, value in arguments.items():
        if value is not None:
            raise ValueError(f"the scorer {name!r} takes no {argument}, got {argument}={value!r}")


def refuse_beside_fast(fast: bool, model: Any, weights: Any) -> None:
    """``ValueError`` for a model or weights beside the fast form, which is one that ships."""
    if fast and (model, weights) != (None, None):
        raise ValueError(
            f"fast=True is the thin encoder that ships: leave model and weights out, got {model or weights!r}"
        )


class Window(NamedTuple):
    """A slice of one passage, short enough for the model, with the query it is read under and the passage's title."""

    text: str
    query: str
    title: str = ""


class PairScorer(Scorer):
    """A scorer whose model reads one passage under one query; subclasses write :meth:`_score_batch`.

    Attributes:
        overlap: tokens that neighbouring windows of a long passage share.
        batch_tokens: tokens of context that one call of :meth:`_score_batch` may hold, padding included.
    """

    overlap: int = 64
    batch_tokens: int = 4096

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one forward at a time: threads queue here instead of fighting for the cores
        self._offsets: dict[str, NDArray[np.int64]] = {}

    @abstractmethod
    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        """Score windows that fit the model together; offsets relative to each window's text."""

    @abstractmethod
    def _token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character offsets of the tokens of ``text``, int64 ``[n, 2]``."""

    @abstractmethod
    def _window_tokens(self, query: str) -> int:
        """Context tokens that fit the model's window beside ``query``; ``ValueError`` when the query leaves none."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[Relevance]]:
        cuts: list[list[_Cut]] = []
        windows: list[Window] = []
        for texts, query, titles in requests:
            room = self._window_tokens(well_formed(query))
            for text, title in zip(map(well_formed, texts), map(well_formed, titles or [""] * len(texts)), strict=True):
                cuts.append(self._cuts(text, room))
                windows += [Window(text[c.start : c.end], well_formed(query), title) for c in cuts[-1]]
        scored = iter(self._score_windows(windows))
        merged = [_merge(passage_cuts, [next(scored) for _ in passage_cuts]) for passage_cuts in cuts]
        passages = iter(merged)
        return [[next(passages) for _ in request.texts] for request in requests]

    def count_tokens(self, text: str) -> int:
        return len(self._token_offsets(well_formed(text)))

    def _score_windows(self, windows: Sequence[Window]) -> list[Relevance]:
        """Batch by length, so that little is padded, and put the results back in order."""
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].text))
        results: dict[int, Relevance] = {}
        with self._lock:
            batch: list[int] = []
            for i in order:
                longest = len(windows[i].text) // 3 + 1  # about the tokens of the longest text so far
                if batch and longest * (len(batch) + 1) > self.batch_tokens:
                    results.update(zip(batch, self._score_batch([windows[j] for j in batch]), strict=True))
                    batch = []
                batch.append(i)
            if batch:
                results.update(zip(batch, self._score_batch([windows[j] for j in batch]), strict=True))
        return [results[i] for i in range(len(windows))]

    def _cuts(self, text: str, room: int) -> list[_Cut]:
        """Character ranges of overlapping windows of ``room`` tokens, each with the range for which it answers."""
        if self._fits(text, room):
            return [_Cut(0, len(text), 0, len(text))] if text else []
        offsets = self._known_offsets(text)
        if len(offsets) <= room:
            return [_Cut(0, len(text), 0, len(text))]
        overlap = min(self.overlap, room // 2)
        n_windows = -(-(len(offsets) - overlap) // (room - overlap))
        firsts = np.linspace(0, len(offsets) - room, n_windows).astype(int)  # equal windows: their scores compare
        starts = [0 if i == 0 else int(offsets[first, 0]) for i, first in enumerate(firsts)]
        ends = [int(offsets[first + room - 1, 1]) for first in firsts[:-1]] + [len(text)]
        # a token in an overlap is answered for by the window in which it stands farther from the edge
        seams = [int(offsets[(first + room + following) // 2, 0]) for first, following in pairwise(firsts)]
        return [_Cut(*cut) for cut in zip(starts, ends, [0, *seams], [*seams, len(text)], strict=True)]

    def _fits(self, text: str, room: int) -> bool:
        """True where it is known without its offsets that a text has at most ``room`` tokens."""
        return len(text.encode()) <= room  # no tokenizer makes more tokens than bytes

    def _known_offsets(self, text: str) -> NDArray[np.int64]:
        """Token offsets, remembered: a passage comes again with the next question."""
        known = self._offsets.get(text)
        if known is None:
            known = self._token_offsets(text)
            if len(self._offsets) >= KNOWN_TEXTS:
                self._offsets.clear()  # rare, and cheaper than keeping an order
            if len(text) <= KNOWN_LENGTH:
                self._offsets[text] = known
        return known


class _Cut(NamedTuple):
    start: int
    end: int
    answers_from: int
    answers_to: int


def _merge(cuts: Sequence[_Cut], parts: Sequence[Relevance]) -> Relevance:
    """One relevance for the passage from those of its windows, each cut to the range it answers for."""
    if not parts:
        return Relevance(np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32))
    if len(parts) == 1:
        return parts[0]
    offsets, scores, evidence = [], [], []
    for cut, part in zip(cuts, parts, strict=True):
        shifted = part.offsets + cut.start
        mine = (shifted[:, 0] >= cut.answers_from) & (shifted[:, 0] < cut.answers_to)
        offsets.append(shifted[mine])
        scores.append(part.scores[mine])
        evidence.append(part.rows[:, mine])
    has_evidence = parts[0].evidence is not None
    weight = float(np.mean([part.weight for part in parts]))
    return Relevance(
        np.concatenate(offsets),
        np.concatenate(scores),
        np.concatenate(evidence, axis=1) if has_evidence else None,
        weight,
    )
