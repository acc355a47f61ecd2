"""What of an example survives a compression, and how sure a mean over examples is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.records import CompressionResult, Span

Floats = NDArray[np.float64]
N_RESAMPLES = 1000


def answer_kept(example: Example, result: CompressionResult) -> float:
    """1.0 when the text of one of the answers stands in what was kept, case and white space aside; NaN without any.

    Raises nothing; an answer that is a common word may survive in another place than the marked one, for every method
    alike.
    """
    if not example.answers:
        return float("nan")
    kept = folded(result.text)
    return float(any(folded(answer) in kept for answer in example.answers))


def support_kept(example: Example, result: CompressionResult) -> Floats:
    """Share of the characters that was kept of each supporting stretch, float64 ``[gold]``."""
    return np.asarray([_coverage(gold, result.passages[gold.passage].spans) for gold in example.gold], dtype=np.float64)


def support_recall(example: Example, result: CompressionResult) -> float:
    """Mean share of the supporting stretches that was kept; NaN without any."""
    return float(support_kept(example, result).mean()) if example.gold else float("nan")


def all_support_kept(example: Example, result: CompressionResult, *, documents: bool = False) -> float:
    """1.0 when every supporting stretch survives; NaN without any.

    Args:
        example, result: the question and what was kept for it.
        documents: the annotation names documents, not sentences: something kept of each of them is enough.
    """
    if not example.gold:
        return float("nan")
    shares = support_kept(example, result)
    return float((shares > 0).all() if documents else (shares >= 0.95).all())


def reciprocal_rank(example: Example, result: CompressionResult, *, depth: int = 10) -> float:
    """1 / rank of the first gold passage in the scorer's order, 0 beyond ``depth``; NaN for a single passage."""
    if len(example.passages) < 2 or not example.gold:
        return float("nan")
    gold = {example.passages[stretch.passage].id for stretch in example.gold}
    order = [passage.id in gold for passage in result.reranked()[:depth]]
    return 1 / (1 + order.index(True)) if True in order else 0.0


def names_documents(examples: Sequence[Example]) -> bool:
    """True when all gold of a data set is whole passages of several."""
    return all(
        gold.start == 0 and gold.end == len(example.passages[gold.passage].text) and len(example.passages) > 1
        for example in examples
        for gold in example.gold
    )


def bootstrap(
    statistic: Callable[[Floats], float], n: int, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of ``statistic(weights)`` over resamples of ``n`` examples.

    The same seed and ``n`` give the same resamples: differences between methods are paired.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64)) for _ in range(n_resamples)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(values: Floats) -> tuple[float, float]:
    """95 % interval of the mean of what is not NaN."""
    return bootstrap(lambda weights: weighted_mean(values, weights), len(values))


def weighted_mean(values: Floats, weights: Floats | None = None) -> float:
    """Mean of what is not NaN; NaN when all is."""
    is_real = ~np.isnan(values)
    weights = is_real.astype(np.float64) if weights is None else weights * is_real
    return float(np.where(is_real, values, 0.0) @ weights / weights.sum()) if weights.sum() else float("nan")


def folded(text: str) -> str:
    """``text`` with case and runs of white space made equal."""
    return " ".join(text.casefold().split())


def _coverage(gold: Stretch, spans: Sequence[Span]) -> float:
    kept = sum(max(0, min(gold.end, end) - max(gold.start, start)) for start, end in spans)
    return kept / max(1, gold.end - gold.start)
