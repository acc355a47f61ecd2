"""Run methods over data sets under budgets: the same passages, the same tokenizer, the same selection for all.

A method is a :class:`~ctxcompress_integrations.scorers.base.Scorer`; what differs between two rows of a report is what
it says about the tokens, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.evaluation.metrics import (
    all_support_kept,
    answer_kept,
    names_documents,
    reciprocal_rank,
    support_recall,
)
from ctxcompress_integrations.options import Unit
from ctxcompress_integrations.records import CompressionResult
from ctxcompress_integrations.scorers.base import Scorer
from ctxcompress_integrations.text.budget import TokenCounter

BATCH = 32
N_TIMED = 40
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be kept.

    Attributes:
        ratio: of the tokens of the request.
        is_hard: as a token budget that is never exceeded; else as ``keep_ratio``, which the first unit may exceed.
        unit: what is kept or cut whole.
    """

    ratio: float
    is_hard: bool = False
    unit: Unit = "sentence"

    def __str__(self) -> str:
        kind = "token_budget" if self.is_hard else "keep_ratio"
        return f"{kind} {self.ratio:g}" + ("" if self.unit == "sentence" else f" {self.unit}")


BUDGETS = (
    *(Budget(ratio) for ratio in (0.5, 0.25, 0.1, 0.05)),
    *(Budget(ratio, is_hard=True) for ratio in (0.5, 0.25, 0.1, 0.05)),
    *(Budget(ratio, is_hard=True, unit="phrase") for ratio in (0.5, 0.25)),
)


@dataclass(slots=True)
class Run:
    """What one method kept of one data set under one budget: one value per example.

    Attributes:
        rate: kept tokens / tokens, float64 ``[e]``.
        answer, support, all_support: float64 ``[e]``, NaN where the data set does not say.
        reciprocal_rank: of the first gold document when documents are ordered by their best sentence, 0 beyond
            the tenth; float64 ``[e]``, NaN for single passages.
        n_over: requests in which a hard budget was exceeded.
    """

    dataset: str
    method: str
    budget: Budget
    rate: Floats
    answer: Floats
    support: Floats
    all_support: Floats
    reciprocal_rank: Floats
    n_over: int


@dataclass(slots=True)
class _Record:
    rate: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    support: list[float] = field(default_factory=list)
    all_support: list[float] = field(default_factory=list)
    n_over: int = 0


def run_method(
    dataset: Dataset,
    method: str,
    scorer: Scorer,
    budgets: Sequence[Budget],
    count_tokens: TokenCounter,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Run]:
    """Compress every answerable example under every budget; each is scored once.

    Args:
        dataset: the examples.
        method: what the report calls the scorer.
        scorer: the method.
        budgets: under which to compress.
        count_tokens: the one tokenizer of the report.
        advance: told after each batch how many examples are done.
    """
    examples = [example for example in dataset.examples if example.is_answerable]
    by_documents = names_documents(examples)
    ranks: list[float] = []
    records: Mapping[Budget, _Record] = {budget: _Record() for budget in budgets}
    for batch in _batches(examples):
        compressor = TextCompressor(scorer, cache_size=len(batch), count_tokens=count_tokens)
        requests = [(example.passages, example.question) for example in batch]
        scored = compressor.compress_many(requests, threshold=float("inf"))
        n_tokens = [result.n_tokens_in for result in scored]
        ranks += [reciprocal_rank(e, result) for e, result in zip(batch, scored, strict=True)]
        for budget, record in records.items():
            for example, n_in in zip(batch, n_tokens, strict=True):
                result = _compress(compressor, example, budget, n_in)
                record.rate.append(result.n_tokens_out / max(1, n_in))
                record.answer.append(answer_kept(example, result))
                record.support.append(support_recall(example, result))
                record.all_support.append(all_support_kept(example, result, documents=by_documents))
                record.n_over += budget.is_hard and result.n_tokens_out > max(1, int(budget.ratio * n_in))
        advance(len(batch))
    return [
        Run(
            dataset.name,
            method,
            budget,
            np.asarray(r.rate),
            np.asarray(r.answer),
            np.asarray(r.support),
            np.asarray(r.all_support),
            np.asarray(ranks),
            r.n_over,
        )
        for budget, r in records.items()
    ]


def time_method(dataset: Dataset, scorer: Scorer, count_tokens: TokenCounter, n: int = N_TIMED) -> Floats:
    """Milliseconds of whole ``compress`` calls, one at a time, no passage twice, nothing cached, float64 ``[n]``."""
    compressor = TextCompressor(scorer, cache_size=0, count_tokens=count_tokens, keep_ratio=0.25)
    examples = list({example.passages[0].text: example for example in dataset.examples}.values())
    examples = examples[:: max(1, len(examples) // (n + 2))]
    seconds = []
    for example in examples[: n + 2]:
        started = time.perf_counter()
        compressor.compress(example.passages, example.question)
        seconds.append(time.perf_counter() - started)
    return 1000 * np.asarray(seconds[2:] or seconds)  # the first two warm up


def threshold_outcomes(
    dataset: Dataset, scorer: Scorer, thresholds: Sequence[float], count_tokens: TokenCounter
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Under each threshold tokens kept ``[t, e]`` and answer kept ``[t, e]``; which examples are answerable ``[e]``."""
    rates: list[list[float]] = [[] for _ in thresholds]
    kept: list[list[float]] = [[] for _ in thresholds]
    for batch in _batches(dataset.examples):
        compressor = TextCompressor(scorer, cache_size=len(batch), count_tokens=count_tokens)
        compressor.compress_many([(e.passages, e.question) for e in batch], threshold=float("inf"))
        for i, threshold in enumerate(thresholds):
            for example in batch:
                result = compressor.compress(example.passages, example.question, threshold=threshold)
                rates[i].append(result.keep_ratio)
                kept[i].append(answer_kept(example, result))
    answerable = np.asarray([example.is_answerable for example in dataset.examples])
    return np.asarray(rates), np.asarray(kept), answerable


def _compress(compressor: TextCompressor, example: Example, budget: Budget, n_in: int) -> CompressionResult:
    if budget.is_hard:
        n_tokens = max(1, int(budget.ratio * n_in))
        return compressor.compress(example.passages, example.question, token_budget=n_tokens, unit=budget.unit)
    return compressor.compress(example.passages, example.question, keep_ratio=budget.ratio, unit=budget.unit)


def _batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Examples of up to ``BATCH`` requests, fewer where requests are large."""
    at = 0
    while at < len(examples):
        size = max(1, min(BATCH, 640 // max(1, len(examples[at].passages))))
        yield examples[at : at + size]
        at += size
