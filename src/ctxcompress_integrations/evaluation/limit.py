"""The best that any choice among given candidates could do at a mean rate: the oracle of arXiv:2407.15504.

Every question has candidates ``(rate, distortion)``. The linear program "least mean distortion at mean rate <= R" is
solved exactly by the lower convex hull of each question, all hull segments taken steepest first, the last one in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Segments(NamedTuple):
    """Hull segments of all questions, steepest first.

    Attributes:
        question: int64 ``[s]``, whose segment it is.
        rate, gain: float64 ``[s]``, tokens it costs and distortion it takes away.
        base_rate, base_distortion: float64 ``[q]``, each question's cheapest candidate.
    """

    question: NDArray[np.int64]
    rate: Floats
    gain: Floats
    base_rate: Floats
    base_distortion: Floats


def lower_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of ``(rate, distortion)`` points, from the cheapest one on, as far as distortion falls."""
    hull: list[tuple[float, float]] = []
    for rate, distortion in sorted(set(points)):
        if hull and distortion >= hull[-1][1]:
            continue
        while hull and hull[-1][0] == rate:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], (rate, distortion)) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((rate, distortion))
    return hull


def segments(candidates: Sequence[Sequence[tuple[float, float]]]) -> Segments:
    """Hull segments of every question's candidates; each question needs at least one."""
    question, rate, gain, base = [], [], [], []
    for i, points in enumerate(candidates):
        hull = lower_hull(points)
        base.append(hull[0])
        for left, right in pairwise(hull):
            question.append(i)
            rate.append(right[0] - left[0])
            gain.append(left[1] - right[1])
    rates, gains = np.asarray(rate, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    order = np.argsort(-gains / np.maximum(rates, 1e-300), kind="stable")
    bases = np.asarray(base, dtype=np.float64).reshape(-1, 2)
    return Segments(np.asarray(question, dtype=np.int64)[order], rates[order], gains[order], bases[:, 0], bases[:, 1])


def oracle(segments: Segments, mean_rates: Floats, weights: Floats | None = None) -> Floats:
    """Least mean distortion at each mean rate, float64 ``[r]``.

    Args:
        segments: of the questions.
        mean_rates: ``[r]``; below the cheapest mean rate the cheapest candidates are what there is.
        weights: ``[q]``, how often each question counts (a bootstrap sample); once each when None.
    """
    weights = np.ones(len(segments.base_rate)) if weights is None else weights
    total = weights.sum()
    counts = weights[segments.question]
    spent = np.cumsum(np.append((weights * segments.base_rate).sum(), segments.rate * counts)) / total
    left = (weights * segments.base_distortion).sum() - np.append(0.0, np.cumsum(segments.gain * counts))
    found: Floats = np.interp(mean_rates, spent, left / total)
    return found


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
