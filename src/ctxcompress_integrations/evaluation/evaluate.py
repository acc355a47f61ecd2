"""``ctxcompress eval``: every method over every set, one after the other, and the rows of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ctxcompress_integrations._progress import progress_bar
from ctxcompress_integrations.errors import CtxCompressError
from ctxcompress_integrations.evaluation.datasets import Dataset
from ctxcompress_integrations.evaluation.jsonl import DatasetError
from ctxcompress_integrations.evaluation.methods import MethodSettings, load_method
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.evaluation.runs import BUDGETS, Budget, Run, run_method, time_method
from ctxcompress_integrations.evaluation.sets import TARGETS, load_set, untitled
from ctxcompress_integrations.evaluation.summary import summarize
from ctxcompress_integrations.scorers.base import Scorer
from ctxcompress_integrations.text.budget import TokenCounter, as_counter

N_COUNTED = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        sets: names or paths.
        methods: names; the first is the one whose differences to the others are reported.
        settings: models that methods need.
        data: folder of the named sets.
        limit: examples per set; None for all.
        titles: whether methods see the passages' titles.
        times: whether whole calls are timed, too; a busy machine should not.
        budgets: under which every method compresses.
    """

    sets: Sequence[str]
    methods: Sequence[str]
    settings: MethodSettings
    data: Path | None = None
    limit: int | None = None
    titles: bool = True
    times: bool = True
    budgets: Sequence[Budget] = BUDGETS


def evaluate(plan: Plan, tokenizer: Any, console: Any = None) -> list[Row]:
    """Run the plan under a progress bar and return all rows.

    A method that cannot be loaded, or that fails on a set, is a row that says why; the others go on.

    Args:
        plan: what to measure.
        tokenizer: whose tokens are counted, or a function ``str -> int``.
        console: rich's, for the progress bar.

    Raises:
        DatasetError: before anything runs, for a set that cannot be read, and for two of one name.
    """
    datasets = [load_set(name, plan.data, limit=plan.limit) for name in plan.sets]
    _check_names(plan.sets, datasets)
    if not plan.titles:
        datasets = [untitled(dataset) for dataset in datasets]
    count_tokens = lru_cache(N_COUNTED)(as_counter(tokenizer))  # every budget counts the same whole request
    rows = [row for dataset in datasets for row in _skipped(dataset)]
    runs: list[Run] = []
    times: list[Row] = []
    with progress_bar(console, transient=True) as progress:
        total = len(plan.methods) * sum(len(dataset.examples) for dataset in datasets)
        task = progress.add_task("loading", total=total)
        for method in plan.methods:
            try:
                scorer = load_method(method, plan.settings)
            except (CtxCompressError, ValueError) as error:
                rows.append(Row(f"{method}: everything", None, "", why=str(error), labels={"method": method}))
                progress.advance(task, total // len(plan.methods))
                continue
            budgets = [*plan.budgets, *_thresholds(scorer)]
            for dataset in datasets:
                progress.update(task, description=f"{method} · {dataset.name}")
                try:
                    if plan.times:  # first: a scorer may remember passages
                        times += _times(dataset, method, scorer, count_tokens)
                    runs += run_method(
                        dataset, method, scorer, budgets, count_tokens, lambda n: progress.advance(task, n)
                    )
                except Exception as error:  # noqa: BLE001 - hours of the other methods are not lost with it
                    rows.append(_failed(dataset, method, error))
    return [*rows, *summarize(runs, reference=plan.methods[0], targets=TARGETS), *times]


def _check_names(sets: Sequence[str], datasets: Sequence[Dataset]) -> None:
    named: dict[str, str] = {}
    for given, dataset in zip(sets, datasets, strict=True):
        if dataset.name in named:
            raise DatasetError(
                f"{named[dataset.name]!r} and {given!r} would both be called {dataset.name!r} in the report: rename one"
            )
        named[dataset.name] = given


def _thresholds(scorer: Scorer) -> Iterator[Budget]:
    """The scorer's calibrated thresholds, the default by its name."""
    for value in sorted(scorer.thresholds.values()):
        yield Budget(threshold="auto" if value == scorer.default_threshold else value)


def _skipped(dataset: Dataset) -> Iterator[Row]:
    """What of a set is not measured, and why."""
    if dataset.problems:
        lines = ", ".join(f"{p.line} ({p.why})" for p in dataset.problems[:5])
        yield Row(f"{dataset.name}: rows skipped", len(dataset.problems), "rows", why=f"lines {lines}")
    if not any(example.is_answerable for example in dataset.examples):
        why = "none of its questions is answered by its passages: it says what thresholds drop, and nothing else"
        yield Row(f"{dataset.name}: what budgets keep", None, "", why=why)


def _failed(dataset: Dataset, method: str, error: Exception) -> Row:
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Row(f"{dataset.name}, {method}: everything", None, "", why=why, labels={"method": method})


def _times(dataset: Dataset, method: str, scorer: Scorer, count_tokens: TokenCounter) -> Iterator[Row]:
    ms = time_method(dataset, scorer, count_tokens)
    spread = (float(ms.min()), float(ms.max()))
    for name, value in (("median", np.median(ms)), ("95th percentile", np.percentile(ms, 95))):
        yield Row(
            f"{dataset.name}, {method}, keep_ratio 0.25: time, {name}",
            float(value),
            "ms per request",
            n=len(ms),
            spread=spread,
            labels={
                "set": dataset.name,
                "method": method,
                "budget": "keep_ratio 0.25",
                "measure": f"time, {name}",
            },
        )
