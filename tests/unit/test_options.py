"""Bad input: named, before any model runs."""

import numpy as np
import pytest

from ctxcompress_integrations import Passage, TextCompressor
from ctxcompress_integrations.scorers.base import Scorer


class Exploding(Scorer):
    """A scorer that must not be reached."""

    name = "exploding"

    @classmethod
    def load(cls, **_):
        return cls()

    def score(self, requests):
        raise AssertionError("a model ran on bad input")

    def count_tokens(self, text):
        return len(text.split())


OK = {"keep_ratio": 0.5}


@pytest.mark.parametrize(
    ("passages", "query", "options", "message"),
    [
        (["a b"], "", OK, "''"),
        (["a b"], " \n", OK, "blank"),
        (["a b"], None, OK, "None"),
        ([], "", OK, "blank"),
        ([1], "q", OK, "passage 0"),
        ([Passage("1", None)], "q", OK, "None"),
        ([Passage(7, "x")], "q", OK, "7"),
        ([Passage("1", "x", metadata=None)], "q", OK, "metadata of passage 0 must be a mapping, got None"),
        ("one string", "q", OK, "wrap it in a list"),
        ([Passage("x", "a"), Passage("x", "b")], "q", OK, "'x' occurs twice"),
        (["a"], "q", {}, "give one of"),
        (["a"], "q", {"keep_ratio": float("nan")}, "nan"),
        (["a"], "q", {"keep_ratio": 0}, "got 0"),
        (["a"], "q", {"keep_ratio": 1.01}, "1.01"),
        (["a"], "q", {"keep_ratio": -0.5}, "-0.5"),
        (["a"], "q", {"keep_ratio": True}, "True"),
        (["a"], "q", {"keep_ratio": "0.5"}, "'0.5'"),
        (["a"], "q", {"token_budget": 0}, "got 0"),
        (["a"], "q", {"token_budget": 2.5}, "2.5"),
        (["a"], "q", {"token_budget": True}, "True"),
        (["a"], "q", {"token_budget": np.int64(0)}, "got 0"),
        (["a"], "q", {"token_budget": np.float64(2)}, "2.0"),
        (["a"], "q", {"keep_ratio": np.float32("nan")}, "nan"),
        (["a"], "q", {"threshold": float("nan")}, "nan"),
        (["a"], "q", {"keep_ratio": 0.5, "token_budget": 5}, "exactly one"),
        (["a"], "q", OK | {"unit": "paragraph"}, "'paragraph'"),
        (["a"], "q", OK | {"protect": "["}, r"'\['"),
        (["a"], "q", OK | {"sigma": -1}, "-1"),
        (["a"], "q", OK | {"sigma": 1e9}, "sigma must be a number in"),
        (["a"], "q", OK | {"joiner": 3}, "joiner"),
        (["a"], "q", OK | {"count_tokens": 3}, "count_tokens"),
    ],
)
def test_bad_input_is_named_before_any_model_runs(passages, query, options, message):
    with pytest.raises(ValueError, match=message):
        TextCompressor(Exploding()).compress(passages, query, **options)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"token_budget": np.int64(8)}, {"token_budget": 8}),
        ({"keep_ratio": np.float32(0.5)}, {"keep_ratio": 0.5}),
        ({"threshold": np.int32(1)}, {"threshold": 1}),
        ({"sigma": np.float64(2)}, {"sigma": 2.0}),
    ],
)
def test_numbers_of_numpy_are_numbers(given, plain):
    made = TextCompressor(Exploding(), **given).options
    assert made == TextCompressor(Exploding(), **plain).options
    assert [type(getattr(made, name)) for name in plain] == [type(value) for value in plain.values()]


def test_unknown_option():
    with pytest.raises(TypeError, match="keep_ration"):
        TextCompressor(Exploding(), keep_ration=0.5)
    with pytest.raises(ValueError, match="exactly one"):
        TextCompressor(Exploding(), keep_ratio=0.5, threshold=1.0)


def test_counter_that_does_not_count():
    with pytest.raises(ValueError, match="must return a number of tokens"):
        TextCompressor(Exploding()).compress(["a b c"], "q", token_budget=1, count_tokens=lambda text: text)


def test_counter_that_counts_with_numpy():
    result = TextCompressor(Exploding()).compress(
        ["a b c"], "q", token_budget=3, count_tokens=lambda t: np.int64(t.count(" "))
    )
    assert (result.n_tokens_in, type(result.n_tokens_in)) == (2, int)


def test_empty_list_and_empty_texts_give_empty_results():
    compressor = TextCompressor(Exploding())
    assert compressor.compress([], "q", **OK).passages == []
    result = compressor.compress(["", ""], "q", **OK)
    assert [p.is_empty for p in result.passages] == [True, True]
    assert (result.text, result.n_tokens_in, result.keep_ratio) == ("", 0, 1.0)
