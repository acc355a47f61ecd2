"""The greedy oracle against a linear program, and the hull against its definition."""

import numpy as np
import pytest
from scipy.optimize import linprog

from ctxcompress_integrations.evaluation.limit import lower_hull, oracle, segments


def by_program(candidates, weights, rate):
    """min mean distortion s.t. mean rate <= R, one distribution over candidates per question."""
    total = sum(weights)
    cost = [w * d / total for points, w in zip(candidates, weights, strict=True) for _, d in points]
    rates = [[w * r / total for points, w in zip(candidates, weights, strict=True) for r, _ in points]]
    n = len(cost)
    equal, at = np.zeros((len(candidates), n)), 0
    for i, points in enumerate(candidates):
        equal[i, at : at + len(points)] = 1
        at += len(points)
    return linprog(cost, A_ub=rates, b_ub=[rate], A_eq=equal, b_eq=np.ones(len(candidates)), bounds=(0, None))


@pytest.mark.parametrize("seed", range(40))
def test_greedy_equals_the_linear_program(seed):
    random = np.random.default_rng(seed)
    is_binary = seed % 2 == 0
    candidates = []
    for _ in range(int(random.integers(1, 9))):
        rates = np.append(0.0, random.random(random.integers(0, 7)))
        distortions = random.integers(0, 2, len(rates)) if is_binary else random.random(len(rates))
        candidates.append([(float(r), float(d)) for r, d in zip(rates, distortions, strict=True)])
    weights = random.integers(0, 4, len(candidates)).astype(float)
    weights[0] += 1
    found = segments(candidates)
    for rate in (0.0, 0.03, 0.2, 0.5, 1.0):
        program = by_program(candidates, weights, rate)
        assert program.status == 0
        assert oracle(found, np.asarray([rate]), weights)[0] == pytest.approx(program.fun, abs=1e-9)


def test_hull_is_convex_and_below_every_point():
    points = [(0.0, 1.0), (0.2, 0.9), (0.3, 0.2), (0.3, 0.5), (0.5, 0.15), (0.9, 0.6), (1.0, 0.0)]
    hull = lower_hull(points)
    assert hull == [(0.0, 1.0), (0.3, 0.2), (1.0, 0.0)] or hull == [(0.0, 1.0), (0.3, 0.2), (0.5, 0.15), (1.0, 0.0)]
    for rate, distortion in points:
        assert np.interp(rate, *zip(*hull, strict=True)) <= distortion + 1e-12
    slopes = np.diff([d for _, d in hull]) / np.diff([r for r, _ in hull])
    assert (np.diff(slopes) >= 0).all()


def test_duplicates_and_single_points():
    assert lower_hull([(0.0, 1.0), (0.0, 1.0)]) == [(0.0, 1.0)]
    assert lower_hull([(0.0, 0.0), (1.0, 0.0)]) == [(0.0, 0.0)]
    found = segments([[(0.5, 0.5)]])
    assert oracle(found, np.asarray([0.0, 0.5, 1.0])).tolist() == [0.5, 0.5, 0.5]
