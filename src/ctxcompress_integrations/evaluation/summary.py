"""From what each method kept of each example to rows of a report: means, intervals, gaps closed, paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.evaluation.limit import Segments, oracle, segments
from ctxcompress_integrations.evaluation.metrics import bootstrap, mean_interval, weighted_mean
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.evaluation.runs import Budget, Run

Floats = NDArray[np.float64]
Targets = Mapping[tuple[str, str, str, str], str]
"""(data set, method, budget, measure) -> bound."""
MEASURES = ("answer", "support", "all_support", "reciprocal_rank")
NAMES = {
    "answer": "answer kept",
    "support": "support recall",
    "all_support": "all support kept",
    "reciprocal_rank": "MRR@10",
}
RANDOM = "random"
RATES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
RANKED = Budget(0.25)
"""Ranks do not depend on the budget: they are reported once."""
SHARE = "share of questions, 95 % interval"


def summarize(runs: Sequence[Run], *, reference: str, targets: Targets) -> list[Row]:
    """All rows of a report.

    Args:
        runs: of several methods over the same data sets; "random" is what gaps are measured from.
        reference: the method whose differences to every other are reported.
        targets: bounds of single rows.
    """
    rows: list[Row] = []
    by_set: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.budget.threshold is None:
            by_set[run.dataset].append(run)
        else:
            rows += _threshold_rows(run, targets)
    for of_set in by_set.values():
        for run in of_set:
            rows += _row_of(run, targets)
        for measure in ("answer", "all_support"):
            rows += _gaps(of_set, measure, targets)
            rows += _limit(of_set, measure)
            rows += _differences(of_set, measure, reference, targets)
    hard = [run for run in runs if run.budget.is_hard]
    if hard:
        n_over = sum(run.n_over for run in hard)
        rows.append(Row("token budgets exceeded", n_over, "requests", "<= 0", sum(len(run.rate) for run in hard)))
    return rows


def random_curve(of_set: Iterable[Run], measure: str, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Mean rates ``[r]``, ascending from 0 to 1, and what random sentences keep at them."""
    points = [(0.0, 0.0), (1.0, 1.0)]
    for run in of_set:
        if run.method == RANDOM and run.budget.unit == "sentence":
            values = _values(run, measure)
            points.append(
                (weighted_mean(np.where(np.isnan(values), np.nan, run.rate), weights), weighted_mean(values, weights))
            )
    ordered = np.asarray(sorted(points))
    return ordered[:, 0], ordered[:, 1]


def library(of_set: Sequence[Run], measure: str) -> Segments:
    """Hull segments over what every compared method kept, nothing at all, and everything."""
    n = len(of_set[0].rate)
    values = [_values(run, measure) for run in of_set]
    points: list[list[tuple[float, float]]] = [[(0.0, 1.0), (1.0, 0.0)] for _ in range(n)]
    for run, kept in zip(of_set, values, strict=True):
        for i in range(n):
            if not np.isnan(kept[i]):
                points[i].append((float(run.rate[i]), 1.0 - float(kept[i])))
    usable = [points[i] if not np.isnan(values[0][i]) else [(0.0, 0.0)] for i in range(n)]
    return segments(usable)


def _values(run: Run, measure: str) -> Floats:
    values: Floats = getattr(run, measure)
    return values


def _row_of(run: Run, targets: Targets) -> Iterator[Row]:
    labels = _labels(run)
    name = f"{run.dataset}, {run.method}, {run.budget}"
    for measure in MEASURES:
        values = _values(run, measure)
        n = int((~np.isnan(values)).sum())
        if not n or (measure == "reciprocal_rank" and run.budget != RANKED):
            continue
        value = weighted_mean(values)
        interval = mean_interval(values)
        target = targets.get((run.dataset, run.method, str(run.budget), NAMES[measure]))
        yield Row(
            f"{name}: {NAMES[measure]}", value, SHARE, target, n, interval, labels=labels | {"measure": NAMES[measure]}
        )
    interval = mean_interval(run.rate)
    yield Row(
        f"{name}: tokens kept",
        float(run.rate.mean()),
        "share of tokens, 95 % interval",
        None,
        len(run.rate),
        interval,
        labels=labels | {"measure": "tokens kept"},
    )


def _threshold_rows(run: Run, targets: Targets) -> Iterator[Row]:
    """What a threshold keeps, and what it drops of passages that hold no answer."""
    shares = {
        "tokens kept": np.where(run.is_answerable, run.rate, np.nan),
        "answer kept": np.where(run.is_answerable, run.answer, np.nan),
        "tokens dropped where there is no answer": np.where(run.is_answerable, np.nan, 1 - run.rate),
    }
    for measure, values in shares.items():
        n = int((~np.isnan(values)).sum())
        if n:
            yield Row(
                f"{run.dataset}, {run.method}, {run.budget}: {measure}",
                weighted_mean(values),
                "share, 95 % interval",
                targets.get((run.dataset, run.method, str(run.budget), measure)),
                n,
                mean_interval(values),
                labels=_labels(run) | {"measure": measure},
            )


def _gaps(of_set: Sequence[Run], measure: str, targets: Targets) -> Iterator[Row]:
    """(method - random) / (oracle - random), each at the method's own mean rate."""
    has_random = any(run.method == RANDOM for run in of_set)
    usable = ~np.isnan(_values(of_set[0], measure))
    if not has_random or not usable.any():
        return
    limit = library(of_set, measure)

    def gap(run: Run, weights: Floats | None) -> float:
        weights = usable.astype(np.float64) if weights is None else weights * usable
        rate, kept = weighted_mean(run.rate, weights), weighted_mean(_values(run, measure), weights)
        at, random = random_curve(of_set, measure, weights)
        floor = float(np.interp(rate, at, random))
        ceiling = 1.0 - float(oracle(limit, np.asarray([rate]), weights)[0])
        return (kept - floor) / (ceiling - floor) if ceiling - floor > 1e-9 else float("nan")

    for run in of_set:
        if run.method != RANDOM and run.budget.unit == "sentence":
            value = gap(run, None)
            is_open = not np.isnan(value)
            name = f"gap closed, {NAMES[measure]}"
            yield Row(
                f"{run.dataset}, {run.method}, {run.budget}: {name}",
                value if is_open else None,
                "(method - random) / (oracle - random), 95 % interval",
                targets.get((run.dataset, run.method, str(run.budget), name)),
                int(usable.sum()),
                bootstrap(partial(gap, run), len(run.rate), n_resamples=200) if is_open else None,
                None if is_open else "random sentences keep as much as the oracle: there is no gap",
                labels=_labels(run) | {"measure": name},
            )


def _limit(of_set: Sequence[Run], measure: str) -> Iterator[Row]:
    """The oracle over everything that was compared, and random sentences, at a ladder of rates."""
    usable = ~np.isnan(_values(of_set[0], measure))
    if not usable.any():
        return
    weights = usable.astype(np.float64)
    rates = np.asarray(RATES)
    curves = {"oracle": 1.0 - oracle(library(of_set, measure), rates, weights)}
    if any(run.method == RANDOM for run in of_set):
        curves["random"] = np.interp(rates, *random_curve(of_set, measure, weights))
    for name, values in curves.items():
        for rate, value in zip(RATES, values, strict=True):
            yield Row(
                f"{of_set[0].dataset}: {name}, {NAMES[measure]}, at {rate:.0%} of the tokens",
                float(value),
                "share of questions",
                n=int(usable.sum()),
                labels={"set": of_set[0].dataset, "measure": f"{name}, {NAMES[measure]}", "rate": str(rate)},
            )


def _differences(of_set: Sequence[Run], measure: str, reference: str, targets: Targets) -> Iterator[Row]:
    """The reference method minus every other one and, where all support is needed, over it; example by example."""
    ours = {run.budget: run for run in of_set if run.method == reference}
    for run in of_set:
        mine = ours.get(run.budget)
        if mine is None or run.method == reference or np.isnan(_values(run, measure)).all():
            continue
        kept, theirs = _values(mine, measure), _values(run, measure)
        found = [("minus", weighted_mean(kept - theirs), mean_interval(kept - theirs))]
        if measure == "all_support" and weighted_mean(theirs):
            quotient = partial(_quotient, kept, theirs)
            found.append(("over", quotient(None), bootstrap(quotient, len(kept))))
        for how, value, interval in found:
            name = f"{NAMES[measure]}, {reference} {how} {run.method}"
            yield Row(
                f"{run.dataset}, {run.budget}: {name}",
                value,
                f"{'share of questions' if how == 'minus' else 'ratio'}, paired 95 % interval",
                targets.get((run.dataset, reference, str(run.budget), name)),
                int((~np.isnan(kept - theirs)).sum()),
                interval,
                labels=_labels(run) | {"measure": name},
            )


def _quotient(kept: Floats, theirs: Floats, weights: Floats | None) -> float:
    other = weighted_mean(theirs, weights)
    return weighted_mean(kept, weights) / other if other else float("nan")


def _labels(run: Run) -> dict[str, str]:
    return {"set": run.dataset, "method": run.method, "budget": str(run.budget)}
