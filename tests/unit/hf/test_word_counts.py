"""Word by word is what the tokenizer counts of the whole."""

import copy
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctxcompress_integrations import TextCompressor
from ctxcompress_integrations.hf import word_counts
from ctxcompress_integrations.hf.load import load_tokenizer
from ctxcompress_integrations.hf.word_counts import WordCounts, token_counter
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.testing.tiny import tiny_decoder
from ctxcompress_integrations.text.budget import Meter, as_counter


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("mini")


@given(text=st.text(max_size=60) | st.text(alphabet=" \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u0301ab.é中[SEP]", max_size=40))
@example("two\x0bhalves\x1cof\x85one\u2028line")
@example("[SEP] [MASK]x  [CLS]\n\n[PAD]")
@example("a \u0301 e\u0301\t\r\n中文 字" + "x" * 150)
def test_counts_are_the_tokenizers(tokenizer, text):
    count = token_counter(tokenizer)
    assert isinstance(count, WordCounts)
    whole = len(tokenizer.encode(text, add_special_tokens=False))
    assert count(text) == count(text) == whole
    assert count(f"{text}\n\n{text} again") == len(
        tokenizer.encode(f"{text}\n\n{text} again", add_special_tokens=False)
    )


def test_half_a_surrogate_pair_is_counted_as_the_replacement_it_becomes(tokenizer):
    for counter in (token_counter(tokenizer), as_counter(tokenizer)):
        assert Meter(counter).count("\ud800 and so on") == counter("\ufffd and so on")
    mini = Mini.load(device="cpu")
    assert mini.count_tokens("\ud800 and so on") == mini.count_tokens("\ufffd and so on")
    kept = TextCompressor(mini).compress(["A \ud800 is bad. Snow fell."], "\ud800?", token_budget=6)
    assert kept.text
    assert kept.n_tokens_out <= 6


@pytest.mark.parametrize(("length", "stride"), [(4, 0), (4, 1), (10, 0), (128, 3)])
@pytest.mark.parametrize("padding", [None, 5, 200])
def test_what_a_file_of_a_tokenizer_says_of_length_changes_no_count(tokenizer, length, stride, padding):
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.enable_truncation(length, stride=stride)
    if padding:
        backend.enable_padding(length=padding)
    for n in (0, 1, 9, 200):
        text = " ".join(["antidisestablishment", "cat"] * n)
        assert as_counter(backend)(text) == len(tokenizer.encode(text, add_special_tokens=False))


def test_memory_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(word_counts, "N_WORDS", 4)
    count = WordCounts(tokenizer)
    long = "y" * 100
    for text in ("one two three four", f"five six {long}", "one seven"):
        assert count(text) == len(tokenizer.encode(text, add_special_tokens=False))
        assert long not in count._known
        assert len(count._known) <= 4 + 3


def test_other_tokenizers_count_whole_texts():
    _, spaced = tiny_decoder("llama")
    assert not isinstance(token_counter(spaced), WordCounts)
    assert token_counter(spaced)("to be or not") == len(spaced.encode("to be or not", add_special_tokens=False))
    slow = SimpleNamespace(encode=lambda text, **_: list(text), convert_tokens_to_ids=None)
    assert token_counter(slow)("abc") == 3
