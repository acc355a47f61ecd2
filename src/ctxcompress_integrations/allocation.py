"""One budget of reader positions over a retrieved set: text for the best passages, summary vectors for the others.

The idea is REFRAG's (arXiv:2509.01092): expand what matters, keep the rest compressed. The rule here learns nothing:

1. Every passage that has vectors gets them, best first. Where its text, pruned or whole, takes no more positions than
   its vectors, the text travels instead: vectors are for saving positions.
2. Then passages get their pruned text, best first.
3. Then they get their full text, best first, so that a set that fits as it is travels as it is.

These are the steps of one ladder, the same for every budget; the budget decides how many are taken. More budget
therefore never takes anything from a passage. Best is what the compressor says (:meth:`CompressionResult.reranked`);
without its opinion, the order of retrieval. Passages travel in that order, numbered as they were retrieved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.records import (
    PASSAGE_SEPARATOR,
    CompressionResult,
    SummaryVectors,
)
from ctxcompress_integrations.text.budget import Meter, as_counter
from ctxcompress_integrations.text.parts import Part, count_positions

Allowed: TypeAlias = Literal["mixed", "text", "vectors"]
Form: TypeAlias = Literal["left out", "vectors", "pruned", "full"]
FORMS: tuple[Form, ...] = get_args(Form)
"""Poorest first."""
Piece: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What one passage got.

    Attributes:
        id: of the passage.
        form: how it travels.
        cost: its positions, label included; 0 when it was left out.
    """

    id: str
    form: Form
    cost: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """A retrieved set as a reader will see it.

    Attributes:
        shares: of each passage, in order of retrieval.
        pieces: of each passage, what it travels as: "[1] Title: ...", numbered by its place in the retrieved set, its
            vectors after it; empty when it was left out.
        n_positions: that :attr:`parts` take, counted exactly; at most the budget.
    """

    shares: tuple[Share, ...]
    pieces: tuple[Piece, ...]
    n_positions: int

    @property
    def parts(self) -> tuple[Part, ...]:
        """The pieces, a blank line between."""
        return joined(self.pieces)


def check_form(form: str) -> None:
    """``ValueError`` for a form that passages cannot travel in."""
    if form not in get_args(Allowed):
        raise ValueError(f"form must be one of {', '.join(get_args(Allowed))}, got {form!r}")


def allocate(
    result: CompressionResult,
    summaries: Mapping[str, SummaryVectors],
    *,
    budget: int | None,
    count_tokens: Any,
    form: Allowed = "mixed",
) -> Allocation:
    """Decide in which form each passage of a compressed request travels.

    Args:
        result: the passages, with what the compressor kept of each.
        summaries: vectors by passage id; a passage without is text or left out.
        budget: reader positions for all of it, labels and separators included; never exceeded. None for the first
            step alone and, where a passage has no vectors, what the compressor kept of it.
        count_tokens: the reader's tokenizer, or a function ``str -> int``.
        form: "mixed"; "text" or "vectors" for one of them alone.

    Raises:
        ValueError: a budget below 1 or an unknown form.
    """
    budget = None if budget is None else whole("budget", budget)
    check_form(form)
    retrieved = _Set(result, summaries, Meter(as_counter(count_tokens)), form)
    return retrieved.unbounded() if budget is None else retrieved.within(budget)


def label(number: int, title: str) -> str:
    """What stands before a passage: "[2] " or "[2] Title: "."""
    return f"[{number}] {title}: " if title else f"[{number}] "


def joined(pieces: Iterable[Piece]) -> tuple[Part, ...]:
    """Pieces as parts of a prompt, a blank line between; empty ones are left out."""
    parts: list[Part] = [""]
    for text, *vectors in filter(None, pieces):
        parts[-1] = f"{parts[-1]}{PASSAGE_SEPARATOR if len(parts) > 1 or parts[0] else ''}{text}"
        parts += [*vectors, ""] if vectors else []
    return tuple(part for part in parts if part)


class _Set:
    """The passages of one request, in every form."""

    def __init__(
        self, result: CompressionResult, summaries: Mapping[str, SummaryVectors], meter: Meter, allowed: Allowed
    ) -> None:
        self.passages, self.meter, self.allowed = result.passages, meter, allowed
        self.vectors = [summaries.get(p.id) if allowed != "text" else None for p in self.passages]
        places = {p.id: i for i, p in enumerate(self.passages)}
        self.ranking = [places[p.id] for p in result.reranked()]

    def unbounded(self) -> Allocation:
        """Vectors wherever they save positions, and what the compressor kept of the others."""
        kept = [self._kept(i) if vectors is None else self._cheapest(i) for i, vectors in enumerate(self.vectors)]
        return self._allocation([f if f == "vectors" or self.allowed != "vectors" else "left out" for f in kept])

    def within(self, budget: int) -> Allocation:
        """The highest state of the ladder that fits."""
        states = list(self._states())
        # the last state is exact by its joined count alone: what fits as it is must not be cut for a token of rounding
        fitting = (
            s for s in reversed(states) if (s is states[-1] or self._sum(s) <= budget) and self._count(s) <= budget
        )
        return self._allocation(next(fitting, states[0]))

    def _allocation(self, forms: Sequence[Form]) -> Allocation:
        costs = [self._cost(i, form) for i, form in enumerate(forms)]
        shares = map(Share, (p.id for p in self.passages), forms, costs)
        pieces = map(self._piece, range(len(forms)), forms)
        return Allocation(tuple(shares), tuple(pieces), self._count(forms))

    def _states(self) -> Iterator[list[Form]]:
        forms: list[Form] = ["left out"] * len(self.passages)
        yield list(forms)
        for i, form in self._steps():
            if FORMS.index(form) > FORMS.index(forms[i]):
                forms[i] = form
                yield list(forms)

    def _steps(self) -> Iterator[tuple[int, Form]]:
        for i in self.ranking:
            if self.vectors[i] is not None:
                yield i, self._cheapest(i)
        if self.allowed == "vectors":
            return
        for i in self.ranking:
            yield i, self._kept(i)
        for i in self.ranking:
            if self.passages[i].original:
                yield i, "full"

    def _kept(self, i: int) -> Form:
        """What the compressor made of a passage."""
        passage = self.passages[i]
        if not passage.text:
            return "left out"
        return "full" if passage.text == passage.original else "pruned"

    def _cheapest(self, i: int) -> Form:
        """The richest form that takes no more positions than the vectors."""
        cheap: list[Form] = ["vectors"]
        if self.allowed == "mixed":
            texts: dict[Form, str] = {"pruned": self.passages[i].text, "full": self.passages[i].original}
            cheap += [f for f, text in texts.items() if text and self._cost(i, f) <= self._cost(i, "vectors")]
        return cheap[-1]

    def _piece(self, i: int, form: Form) -> Piece:
        if form == "left out":
            return ()
        passage, vectors = self.passages[i], self.vectors[i]
        text = label(i + 1, passage.title) + {"pruned": passage.text, "full": passage.original}.get(form, "")
        return (text,) if form != "vectors" or vectors is None else (text, vectors)

    def _cost(self, i: int, form: Form) -> int:
        return count_positions(self._piece(i, form), self.meter.count)

    def _sum(self, forms: Sequence[Form]) -> int:
        """Positions of the passages counted one by one: quick, and seldom less than :meth:`_count`."""
        n_separators = max(0, sum(form != "left out" for form in forms) - 1)
        return sum(self._cost(i, form) for i, form in enumerate(forms)) + n_separators * self.meter.separator

    def _count(self, forms: Sequence[Form]) -> int:
        return count_positions(joined(map(self._piece, range(len(forms)), forms)), self.meter.count)
