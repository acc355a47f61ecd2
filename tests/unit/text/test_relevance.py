"""Tokens -> words -> units against loops and scipy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.relevance import gaussian_smooth, unit_scores, with_rows_of, word_rows


def slow_word_rows(relevance, rows, words):
    out = np.empty((len(rows), len(words)), dtype=np.float32)
    for q, row in enumerate(rows):
        for w, (start, end) in enumerate(words):
            touching = [row[t] for t, (a, b) in enumerate(relevance.offsets) if a < end and b > start and b > a]
            out[q, w] = max(touching, default=row.min() if len(row) else 0.0)
    return out


@given(st.data())
def test_words_take_the_maximum_over_their_tokens(data):
    def ranges(n):
        return sorted(data.draw(st.lists(st.integers(0, 40), min_size=2 * n, max_size=2 * n, unique=True)))

    n_words = data.draw(st.integers(1, 6))
    words = np.array(ranges(n_words)).reshape(-1, 2)
    n_tokens = data.draw(st.integers(0, 8))
    starts = np.sort(
        np.array(data.draw(st.lists(st.integers(0, 38), min_size=n_tokens, max_size=n_tokens)), dtype=np.int64)
    )
    lengths = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n_tokens, max_size=n_tokens)), dtype=np.int64)
    offsets = np.stack([starts, starts + lengths], axis=1)
    rows = np.random.default_rng(0).normal(size=(2, n_tokens)).astype(np.float32)
    relevance = Relevance(offsets, rows.max(axis=0) if n_tokens else np.empty(0, np.float32), rows)
    np.testing.assert_allclose(word_rows(relevance, rows, words), slow_word_rows(relevance, rows, words))


def test_rows_of_another_opinion_add_up_per_unit():
    ours = Relevance(np.array([[0, 4], [5, 9], [10, 14]]), np.array([1, 2, 3], np.float32), weight=2.0)
    theirs = Relevance(
        np.array([[0, 2], [2, 4], [10, 14]]),
        np.array([4, 8, 6], np.float32),
        np.array([[4, 8, 0], [0, 0, 6]], np.float32),
    )
    both = with_rows_of(ours, theirs, 0.5)
    words = np.array([[0, 4], [5, 9], [10, 14]])
    scores = unit_scores(word_rows(both, both.rows, words) * both.weight, np.array([0, 2]))
    np.testing.assert_allclose(scores, [2 * 2 + 0.5 * 8, 2 * 3 + 0.5 * 6])  # each unit: ours + half of theirs
    np.testing.assert_allclose(both.scores, [1 + 2, 2 + 1, 3 + 1.5])


@given(st.integers(1, 40), st.floats(0.3, 3))
def test_smoothing_is_scipys(n, sigma):
    rows = np.random.default_rng(n).normal(size=(2, n)).astype(np.float32)
    np.testing.assert_allclose(gaussian_smooth(rows, sigma), gaussian_filter1d(rows, sigma, axis=1), atol=1e-5)


def test_unit_is_worth_the_sum_of_each_rows_best_word():
    rows = np.array([[1, 5, 2, 0], [3, 0, 0, 4]], dtype=np.float32)
    np.testing.assert_allclose(unit_scores(rows, np.array([0, 2])), [5 + 3, 2 + 4])
    np.testing.assert_allclose(unit_scores(rows[:1], np.array([0, 2])), [5, 2])  # QUITO: the maximum
