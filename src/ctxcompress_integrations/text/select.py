"""Which words of which passages are kept: one ranking over all units of a request, filled up to an exact budget.

The units are QUITO's (arXiv:2408.00274): phrases (single words), whole sentences, or sentences with a dynamic window in
the first one that no longer fits. What differs from the paper: the budget is global over the passages, counted in
tokens and never exceeded; a sentence that does not fit lets a later one in; the window stays in document order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ctxcompress_integrations.text.budget import Meter
from ctxcompress_integrations.text.protect import protected_groups
from ctxcompress_integrations.text.relevance import unit_scores
from ctxcompress_integrations.text.selection import Mask, ScoredWords, Selection, Unit

MAX_TRIES = 8
"""Exact recounts that may fail before the top-up stops: what is left of the budget is then a few tokens."""
SHARPNESS = 1.5
"""Of a cut: with 0 the longest run would win; from 1 to 2.5 as many answers are kept (docs/decisions.md, 60)."""


def select_above(passages: Sequence[ScoredWords], threshold: float, unit: str, protect: Sequence[str]) -> list[Mask]:
    """Keep every unit whose score reaches ``threshold``, and what is protected; may keep nothing."""
    masks = [np.zeros(len(p.words), dtype=bool) for p in passages]
    above = (u for u in _units(passages, unit) if u.score >= threshold)
    for u in (*above, *_protected(passages, protect)):
        masks[u.passage][u.first : u.last] = True
    return masks


def select_within(
    passages: Sequence[ScoredWords],
    budget: int,
    *,
    unit: str,
    protect: Sequence[str],
    meter: Meter,
    joiner: str | None,
    is_hard: bool,
) -> list[Mask]:
    """Keep the best units that fit ``budget`` tokens.

    Args:
        passages: the request, scored.
        budget: tokens, counted by ``meter``.
        unit: "phrase", "sentence" or "dynamic".
        protect: pattern names; their matches are taken before anything else.
        is_hard: True (a token budget): the result never exceeds it, and where no unit fits, the best is cut at words.
            False (a ratio): the best unit is kept whole even if it alone exceeds the budget.

    Returns:
        one boolean mask ``[w]`` per passage.
    """
    ranked = sorted(_units(passages, unit), key=lambda u: (-u.score, u.passage, u.first))
    forced = sorted(_protected(passages, protect), key=lambda u: (-u.score, u.passage, u.first))
    n_fixed = 0 if is_hard or not ranked else 1
    queue = ranked[:n_fixed] + forced + ranked[n_fixed:]
    selection = Selection(passages, meter, joiner)
    may_cut = is_hard and unit != "phrase"  # a phrase is a word
    is_too_long = may_cut and ranked and not forced and selection.cost(ranked[0]) > budget
    if is_too_long and _cut(selection, ranked[:MAX_TRIES], budget):  # better a part of the best than a lesser one whole
        if unit != "dynamic":
            _top_up(selection, queue, [], budget)
        return selection.masks
    taken, overflow = _fill(selection, queue, budget, n_fixed, stops=unit == "dynamic")
    _trim(selection, taken, budget, n_fixed)
    if overflow is not None:
        _cut(selection, [overflow], budget)
    elif unit != "dynamic":
        _top_up(selection, queue, taken, budget)
    if may_cut and not any(mask.any() for mask in selection.masks):
        _cut(selection, ranked[:MAX_TRIES], budget)
    return selection.masks


def _units(passages: Sequence[ScoredWords], unit: str) -> Iterator[Unit]:
    for i, p in enumerate(passages):
        n_words = len(p.words)
        starts = np.arange(n_words) if unit == "phrase" else p.first_words
        scores = p.scores if unit == "phrase" else unit_scores(p.rows, p.first_words)
        ends = np.append(starts[1:], n_words)
        for first, last, score in zip(starts.tolist(), ends.tolist(), scores.tolist(), strict=False):
            yield Unit(i, first, last, score)


def _protected(passages: Sequence[ScoredWords], protect: Sequence[str]) -> list[Unit]:
    """One unit per protected match, worth more than the sentence that it stands in is worth among its like."""
    found: list[Unit] = []
    for i, p in enumerate(passages):
        groups = protected_groups(p.text, p.words, protect) if protect else []
        scores = unit_scores(p.rows, p.first_words) if groups else ()
        for first, last in groups:
            sentence = int(np.searchsorted(p.first_words, first, side="right")) - 1
            found.append(Unit(i, first, last, float(scores[sentence])))
    return found


def _fill(
    selection: Selection, queue: Sequence[Unit], budget: int, n_fixed: int, *, stops: bool
) -> tuple[list[Unit], Unit | None]:
    """Take units in order while their costs, each counted alone, fit; with ``stops`` end at the first that does not."""
    meter, taken, used = selection.meter, list(queue[:n_fixed]), 0
    opened: set[int] = set()
    overflow = None
    for position, unit in enumerate(queue):
        cost = selection.cost(unit) + (0 if unit.passage in opened else meter.separator)
        if position >= n_fixed and used + cost > budget:
            if stops:
                overflow = unit
                break
            continue
        if position >= n_fixed:
            taken.append(unit)
        used += cost
        opened.add(unit.passage)
    selection.reset(taken)
    return taken, overflow


def _trim(selection: Selection, taken: list[Unit], budget: int, n_fixed: int) -> None:
    """Give back the lowest units until the exact count fits: tokens of a whole are not the sum over its parts."""
    n_tokens = selection.n_tokens()
    while n_tokens > budget and len(taken) > n_fixed:
        freed = 0
        while len(taken) > n_fixed and freed < n_tokens - budget:
            unit = taken.pop()
            freed += max(1, selection.cost(unit))
        selection.reset(taken)
        n_tokens = selection.n_tokens()


def _top_up(selection: Selection, queue: Sequence[Unit], taken: list[Unit], budget: int) -> None:
    """Spend what the exact count left over on the best units that still fit."""
    n_tokens, n_failed, chosen = selection.n_tokens(), 0, set(taken)
    for unit in queue:
        if n_tokens >= budget or n_failed >= MAX_TRIES:
            return
        if unit in chosen or selection.cost(unit) > budget - n_tokens + 1:
            continue
        before = selection.flip(unit, on=True)
        n_after = selection.n_tokens()
        if n_after > budget:
            selection.restore(unit, before)
            n_failed += 1
        else:
            n_tokens = n_after


def _cut(selection: Selection, units: Sequence[Unit], budget: int) -> bool:
    """Keep the best run of words that fits, of the first unit that has one; True when there was one."""
    before = selection.n_tokens()
    for unit in units:
        words = (Unit(unit.passage, i, i + 1, unit.score) for i in range(unit.first, unit.last))
        costs = [max(1, selection.cost(word)) for word in words]  # a word that is free alone may not be among others
        room, best = budget - before, None
        while (run := _run(selection, unit, costs, room)) is not None:
            alone = sum(costs[run.first - unit.first : run.last - unit.first])
            together = selection.n_tokens_with(run) - before
            if together <= budget - before:
                best, wider = run, alone + budget - before - together
                if wider <= room:
                    break
                room = wider  # words cost less together than each alone
            elif best is not None:
                break  # the last one that fitted is as good as it gets
            else:
                room = alone * (budget - before) // together  # less than it cost alone: another, smaller run
        if best is not None and _says_something(selection.passages[best.passage], best):
            selection.flip(best, on=True)
            return True
    return False


def _says_something(passage: ScoredWords, run: Unit) -> bool:
    """False for nothing but punctuation, which is all that fits beside a word that does not."""
    start, end = int(passage.words[run.first, 0]), int(passage.words[run.last - 1, 1])
    return any(character.isalnum() for character in passage.text[start:end])


def _run(selection: Selection, unit: Unit, costs: Sequence[int], room: int) -> Unit | None:
    """The run of the unit's words, costing at most ``room`` tokens, that is worth most; the first one among equals. A
    token is worth the more the further its word stands out of the unit: ``exp(SHARPNESS z)`` of its standard score.
    """
    scores = selection.passages[unit.passage].scores[unit.first : unit.last].astype(np.float64)
    standard = (scores - scores.max()) / (scores.std() or 1.0)  # a constant more changes no order
    spent = np.append(0, np.cumsum(costs))
    worth = np.append(0, np.cumsum(np.exp(SHARPNESS * standard) * costs))
    ends = np.searchsorted(spent, spent[:-1] + room, side="right") - 1
    starts = np.flatnonzero(ends > np.arange(len(scores)))
    if not len(starts):
        return None
    first = int(starts[np.argmax((worth[ends] - worth[:-1])[starts])])
    return Unit(unit.passage, unit.first + first, unit.first + int(ends[first]), unit.score)
