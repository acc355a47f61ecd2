"""A function from prompt to answer as a reader."""

import threading
import warnings

import pytest

from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.readers.chat import TextReader
from ctxcompress_integrations.testing.tiny import tiny_decoder


@pytest.fixture(scope="module")
def model():
    return tiny_decoder("llama")[0]


def test_vectors_become_text_with_one_warning(model, twin):
    prompts = []
    reader = TextReader(lambda prompt: prompts.append(prompt) or "yes", texts={"a": "text A", "b": ""})
    a, b = twin.summary(model, "a"), twin.summary(model, "b")
    with pytest.warns(UserWarning, match="reads text only") as caught:
        assert reader.generate_many([["[1] ", a, "\n[2] ", b, "!"], [a]]) == ["yes", "yes"]
    assert len(caught) == 1
    assert sorted(prompts) == ["[1] text A\n[2] !", "text A"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reader.generate([a]) == "yes"
    with pytest.warns(UserWarning, match="reads text only"):
        assert TextReader(str.upper, texts=lambda name: f"<{name}>").generate(["x", b]) == "X<B>"


@pytest.mark.parametrize("texts", [None, {"other": "x"}, lambda _: None])
def test_vectors_without_text_are_named_before_anything_is_asked(model, twin, texts):
    reader = TextReader(lambda _: pytest.fail("asked"), texts=texts)
    with pytest.raises(SummaryMismatchError, match=r"no text is known for the passage 'a'; give it in texts="):
        reader.generate_many([["fine"], ["x", twin.summary(model, "a")]])
    with pytest.raises(SummaryMismatchError, match="'a'"):
        reader.stream([twin.summary(model, "a")])


def test_stop_texts_and_streams():
    whole = TextReader(lambda _: "one\ntwo")
    assert whole.generate(["?"], stop=["\n"]) == "one"
    assert list(whole.stream(["?"], stop=["\n"])) == ["one"]
    pieces = TextReader(lambda _: "one\ntwo", stream=lambda _: iter(["on", "e\n", "two"]))
    assert list(pieces.stream(["?"])) == ["on", "e\n", "two"]
    assert "".join(pieces.stream(["?"], stop=["e\nt"])) == "on"


def test_counting():
    assert TextReader(str, count_tokens=lambda text: len(text.split())).positions(["a b", " c"]) == 3
    with pytest.raises(ValueError, match="build it with count_tokens="):
        TextReader(str).count_tokens("x")


async def test_slow_answers_wait_side_by_side():
    import asyncio

    together = threading.Barrier(3)
    reader = TextReader(lambda _: str(together.wait(timeout=20)), max_concurrency=3)
    assert sorted(await asyncio.gather(*(reader.agenerate(["?"]) for _ in range(3)))) == ["0", "1", "2"]
    assert sorted(reader.generate_many([["?"]] * 3)) == ["0", "1", "2"]
