"""Metrics by their definitions, on results whose kept characters are known."""

import math

import numpy as np
import pytest

from ctxcompress_integrations import load_compressor
from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.evaluation.metrics import (
    all_support_kept,
    answer_kept,
    bootstrap,
    names_documents,
    reciprocal_rank,
    support_recall,
    weighted_mean,
)
from ctxcompress_integrations.records import CompressedPassage, CompressionResult, Passage, Span

TEXTS = ("Ada wrote it. Bob read it.", "It rained  in Rome.")


def result(*spans, scores=(None, None)):
    passages = [
        CompressedPassage(
            str(i), " ".join(t[a:b] for a, b in s), tuple(Span(*x) for x in s), original=t, rerank_score=r
        )
        for i, (t, s, r) in enumerate(zip(TEXTS, spans, scores, strict=True))
    ]
    return CompressionResult("q", passages, 10, 5)


def example(answers=(), gold=()):
    passages = tuple(Passage(str(i), text) for i, text in enumerate(TEXTS))
    return Example("x", "q", passages, tuple(answers), (), tuple(gold))


def test_answer_survives_in_spite_of_case_and_white_space():
    kept = result([], [(0, 19)])
    assert answer_kept(example(["RAINED in rome"]), kept) == 1.0
    assert answer_kept(example(["Ada", "Rome."]), kept) == 1.0
    assert answer_kept(example(["Ada"]), kept) == 0.0
    assert math.isnan(answer_kept(example(), kept))


def test_support_is_counted_in_characters():
    gold = (Stretch(0, 0, 13), Stretch(1, 0, 19))
    half = result([(0, 13)], [(0, 9)])
    assert support_recall(example(gold=gold), half) == pytest.approx((1 + 9 / 19) / 2)
    assert all_support_kept(example(gold=gold), half) == 0.0
    assert all_support_kept(example(gold=gold), half, documents=True) == 1.0
    assert all_support_kept(example(gold=gold), result([(0, 13)], [(0, 19)])) == 1.0
    assert all_support_kept(example(gold=gold), result([(0, 13)], []), documents=True) == 0.0
    assert math.isnan(support_recall(example(), half))


def test_gold_that_names_documents():
    assert names_documents([example(gold=[Stretch(1, 0, 19)])])
    assert not names_documents([example(gold=[Stretch(0, 0, 13)])])


def test_reciprocal_rank_follows_the_best_sentences():
    gold = example(gold=[Stretch(1, 0, 19)])
    assert reciprocal_rank(gold, result([], [], scores=(0.9, 0.4))) == 0.5
    assert reciprocal_rank(gold, result([], [], scores=(0.1, 0.4))) == 1.0
    assert reciprocal_rank(gold, result([], [], scores=(0.9, 0.4)), depth=1) == 0.0
    single = Example("x", "q", (Passage("0", "a"),), (), (), (Stretch(0, 0, 1),))
    assert math.isnan(reciprocal_rank(single, result([], [])))


def test_reranked_keeps_the_order_of_what_was_not_scored():
    passages = load_compressor("lexical").compress(list(TEXTS), "Rome", keep_ratio=1.0)
    assert [p.id for p in passages.reranked()] == ["0", "1"]
    scored = load_compressor("lexical").compress(list(TEXTS), "Rome", threshold=float("-inf"))
    assert [p.id for p in scored.reranked()] == ["1", "0"]
    assert scored.text == "\n\n".join(TEXTS)


def test_bootstrap_covers_the_mean_and_is_paired():
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    low, high = bootstrap(lambda w: weighted_mean(values, w), 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    shifted = bootstrap(lambda w: weighted_mean(values + 0.1, w) - weighted_mean(values, w), 400)
    np.testing.assert_allclose(shifted, 0.1, atol=1e-9)


def test_weighted_mean_leaves_nan_out():
    values = np.asarray([1.0, np.nan, 0.0])
    assert weighted_mean(values) == 0.5
    assert weighted_mean(values, np.asarray([3.0, 9.0, 1.0])) == 0.75
    assert math.isnan(weighted_mean(np.asarray([np.nan])))
