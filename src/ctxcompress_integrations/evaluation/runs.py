"""Run methods over data sets under budgets: the same passages, the same tokenizer, the same selection for all.

A method is a :class:`~ctxcompress_integrations.scorers.base.Scorer`; what differs between two rows of a report is what
it says about the tokens, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
from ctxcompress_integrations.options import Threshold, Unit
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
        threshold: instead of a ratio, "auto" for the scorer's own; unanswerable examples are compressed as well.
    """

    ratio: float = 1.0
    is_hard: bool = False
    unit: Unit = "sentence"
    threshold: Threshold | None = None

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"threshold {self.threshold if self.threshold == 'auto' else format(self.threshold, 'g')}"
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
        is_answerable: bool ``[e]``; all True but under a threshold.
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
    is_answerable: NDArray[np.bool_]
    n_over: int


@dataclass(slots=True)
class _Record:
    rate: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    support: list[float] = field(default_factory=list)
    all_support: list[float] = field(default_factory=list)
    reciprocal_rank: list[float] = field(default_factory=list)
    is_answerable: list[bool] = field(default_factory=list)
    n_over: int = 0


def run_method(
    dataset: Dataset,
    method: str,
    scorer: Scorer,
    budgets: Sequence[Budget],
    count_tokens: TokenCounter,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Run]:
    """Compress every example under every budget; each is scored once.

    Args:
        dataset: the examples; unanswerable ones count under thresholds alone.
        method: what the report calls the scorer.
        scorer: the method.
        budgets: under which to compress.
        count_tokens: the one tokenizer of the report.
        advance: told after each batch how many examples are done.

    Returns:
        One run per budget; none for those under which no example counts.
    """
    has_thresholds = any(budget.threshold is not None for budget in budgets)
    examples = [example for example in dataset.examples if example.is_answerable or has_thresholds]
    by_documents = names_documents(examples)
    records = {budget: _Record() for budget in budgets}
    for batch in _batches(examples):
        compressor = TextCompressor(scorer, cache_size=len(batch), count_tokens=count_tokens)
        requests = [(example.passages, example.question) for example in batch]
        scored = compressor.compress_many(requests, threshold=float("inf"))
        for budget, record in records.items():
            for example, whole in zip(batch, scored, strict=True):
                if example.is_answerable or budget.threshold is not None:
                    result = _compress(compressor, example, budget, whole.n_tokens_in)
                    _note(record, example, result, budget, by_documents)
                    record.reciprocal_rank.append(reciprocal_rank(example, whole))
        advance(len(batch))
    return [_run(dataset.name, method, budget, record) for budget, record in records.items() if record.rate]


def _note(record: _Record, example: Example, result: CompressionResult, budget: Budget, by_documents: bool) -> None:
    n_in = result.n_tokens_in
    record.rate.append(result.n_tokens_out / max(1, n_in))
    record.answer.append(answer_kept(example, result))
    record.support.append(support_recall(example, result))
    record.all_support.append(all_support_kept(example, result, documents=by_documents))
    record.is_answerable.append(example.is_answerable)
    record.n_over += budget.is_hard and result.n_tokens_out > max(1, int(budget.ratio * n_in))


def _run(dataset: str, method: str, budget: Budget, record: _Record) -> Run:
    arrays = {
        name: np.asarray(getattr(record, name))
        for name in ("rate", "answer", "support", "all_support", "reciprocal_rank", "is_answerable")
    }
    return Run(dataset, method, budget, **arrays, n_over=record.n_over)


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


def _compress(compressor: TextCompressor, example: Example, budget: Budget, n_in: int) -> CompressionResult:
    if budget.threshold is not None:
        return compressor.compress(example.passages, example.question, threshold=budget.threshold, unit=budget.unit)
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
