"""Cutting a unit that does not fit: the best run of its words, against every run there is."""

import numpy as np
import pytest

from ctxcompress_integrations.text.budget import Meter
from ctxcompress_integrations.text.select import SHARPNESS, select_within
from ctxcompress_integrations.text.selection import ScoredWords


def sentence(sizes, scores):
    """One sentence of words so many letters long."""
    text = " ".join("x" * size for size in sizes)
    ends = np.cumsum(np.array(sizes) + 1) - 1
    words = np.stack([ends - sizes, ends], axis=1)
    scores = np.asarray(scores, dtype=np.float32)
    return ScoredWords(text, words, np.array([0]), scores[None], scores)


def kept(passage, budget, *, fee=0, space=0, **options):
    """Under a token for every letter, a fee for every text, and so much for a space between words."""
    settings = {"unit": "sentence", "protect": (), "joiner": " ", "is_hard": True, **options}
    (mask,) = select_within(
        [passage],
        budget,
        meter=Meter(lambda text: len(text.replace(" ", "")) + fee + space * text.strip().count(" ")),
        **settings,
    )
    return mask


def best_run(sizes, scores, budget):
    """First and last word of the run that is worth most, by trying them all."""
    standard = (np.float32(scores).astype(float) - np.mean(scores)) / np.std(scores)
    worth = [size * np.exp(SHARPNESS * z) for size, z in zip(sizes, standard, strict=True)]
    runs = [(i, j) for i in range(len(sizes)) for j in range(i + 1, len(sizes) + 1) if sum(sizes[i:j]) <= budget]
    return max(runs, key=lambda run: (sum(worth[slice(*run)]), -run[0], run[1]), default=None)


@pytest.mark.parametrize("seed", range(40))
def test_a_unit_that_does_not_fit_is_cut_to_its_best_run(seed):
    rng = np.random.default_rng(seed)
    sizes, scores = rng.integers(1, 30, size=12).tolist(), rng.normal(size=12).tolist()
    for budget in range(1, sum(sizes)):
        found, expected = np.flatnonzero(kept(sentence(sizes, scores), budget)), best_run(sizes, scores, budget)
        assert (found.min(), found.max() + 1) == expected if len(found) else expected is None, budget


def test_a_word_that_never_fits_does_not_stand_in_the_way():
    around_it = sentence([4, 4, 60, 4, 4], [0.1, 0.2, 0.9, 0.3, 0.1])
    for budget in range(4, 60):
        assert kept(around_it, budget).tolist() == [False, False, False, True, budget >= 8]
    assert kept(around_it, 64).tolist() == [False, False, True, True, False]


def test_phrases_take_every_word_that_fits():
    passage = sentence([4, 4, 60, 4, 4], [0.1, 0.2, 0.9, 0.3, 0.1])
    assert kept(passage, 12, unit="phrase").tolist() == [True, True, False, True, False]


def test_what_words_cost_together_decides():
    sizes, scores = [5, 3, 8, 2, 6, 4], [0.2, 0.5, 0.4, 0.1, 0.6, 0.3]
    for budget in range(4, 30):
        found = np.flatnonzero(kept(sentence(sizes, scores), budget, fee=2))
        assert sum(sizes[i] for i in found) + 2 <= budget
        assert len(found), budget
        assert budget - sum(sizes[i] for i in found) - 2 <= max(sizes)


@pytest.mark.parametrize("space", [1, 5, 20])
def test_words_that_cost_more_together_than_alone_leave_a_smaller_run(space):
    sizes, scores = [5, 3, 8, 2, 6, 4], [0.2, 0.5, 0.4, 0.1, 0.6, 0.3]
    for budget in range(8, 30):
        found = np.flatnonzero(kept(sentence(sizes, scores), budget, space=space))
        assert len(found), budget
        assert sum(sizes[i] for i in found) + space * (len(found) - 1) <= budget


def test_words_that_are_free_alone_are_counted_together():
    passage = sentence([1, 2, 3, 2, 1, 3, 2, 3], [0.2, 0.5, 0.4, 0.1, 0.6, 0.3, 0.2, 0.1])
    for budget in (1, 2, 3):
        meter = Meter(lambda text: len(text.replace(" ", "")) // 4)
        (mask,) = select_within([passage], budget, unit="sentence", protect=(), meter=meter, joiner=" ", is_hard=True)
        found = "".join("x" * size for size, is_kept in zip([1, 2, 3, 2, 1, 3, 2, 3], mask, strict=True) if is_kept)
        assert budget - 1 <= len(found) // 4 <= budget
