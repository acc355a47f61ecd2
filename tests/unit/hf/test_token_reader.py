"""Word by word is what the tokenizer makes of the whole."""

import copy

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken

from ctxcompress_integrations import TextCompressor
from ctxcompress_integrations.hf import token_reader as module
from ctxcompress_integrations.hf.load import load_tokenizer
from ctxcompress_integrations.hf.token_reader import TokenReader, WordReader, token_reader
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_encoder
from ctxcompress_integrations.text.budget import Meter, as_counter


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("mini")


@given(text=st.text(max_size=60) | st.text(alphabet=" \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u0301ab.é中[SEP]", max_size=40))
@example("two\x0bhalves\x1cof\x85one\u2028line")
@example("[SEP] [MASK]x  [CLS]\n\n[PAD]")
@example("a \u0301 e\u0301\t\r\n中文 字" + "x" * 150)
def test_tokens_are_the_tokenizers(tokenizer, text):
    reader = token_reader(tokenizer)
    assert isinstance(reader, WordReader)
    for longer in (text, text, f"{text}\n\n{text} again"):
        whole = tokenizer(longer, add_special_tokens=False, return_offsets_mapping=True)
        assert reader.count(longer) == len(whole["input_ids"])
        for read in (reader, TokenReader(tokenizer)):
            (found,) = read.read([longer])
            assert found.ids.tolist() == whole["input_ids"]
            assert found.offsets.tolist() == [list(characters) for characters in whole["offset_mapping"]]
            assert read.sequences([longer]) == [tokenizer(longer)["input_ids"]]


def test_texts_are_read_together_and_cut(tokenizer):
    texts = ["Some words, and others.", "", "word " * 400, "others and some words"]
    for reader in (token_reader(tokenizer), TokenReader(tokenizer)):
        for max_tokens in (None, 256, 5, 2, 0):
            wanted = tokenizer(texts, truncation=max_tokens is not None and max_tokens > 2, max_length=max_tokens)
            if max_tokens is None or max_tokens > 2:
                assert reader.sequences(texts, max_tokens) == wanted["input_ids"]
            else:
                assert reader.sequences(texts, max_tokens) == [[101, 102]] * 4
            for ids, offsets in reader.read(texts, max_tokens):
                assert offsets.shape == (len(ids), 2)
        assert reader.read([]) == reader.sequences([]) == []


def test_half_a_surrogate_pair_is_counted_as_the_replacement_it_becomes(tokenizer):
    for counter in (token_reader(tokenizer).count, as_counter(tokenizer)):
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
    monkeypatch.setattr(module, "N_WORDS", 4)
    reader = WordReader(tokenizer)
    long, strange = "y" * 100, "qzxjkvqzxjkvqzxjkvqzxjkv"
    for text in ("one two three four", f"five six {long}", f"one {strange} seven", " ".join(map(str, range(100)))):
        assert reader.read([text])[0].ids.tolist() == tokenizer.encode(text, add_special_tokens=False)
        assert not {long, strange} & reader._known.keys()
        assert len(reader._known) <= 4


def test_what_another_thread_forgets_is_held(tokenizer, monkeypatch):
    reader = WordReader(tokenizer)
    reader.count("some known words")
    tokenized = reader._tokenized

    def meanwhile(words):
        reader._known = {"": ()}
        return tokenized(words)

    monkeypatch.setattr(reader, "_tokenized", meanwhile)
    assert reader.count("some known words and others") == 5


@pytest.mark.parametrize("is_split", [False, True])
def test_state_of_the_tokenizer_is_neither_read_nor_changed(tokenizer, is_split):
    ours = copy.deepcopy(tokenizer)
    ours.split_special_tokens = is_split
    ours.backend_tokenizer.enable_truncation(4, stride=1)
    ours.backend_tokenizer.enable_padding(length=30)
    text = "antidisestablishment and [SEP] cats " * 20
    reader = token_reader(ours)
    ours.backend_tokenizer.enable_truncation(5)
    ours.backend_tokenizer.enable_padding(length=31)
    counted = reader.count(text), reader.read([text])[0].ids.tolist()
    assert ours.backend_tokenizer.truncation["max_length"] == 5
    assert ours.backend_tokenizer.padding["length"] == 31
    whole = ours(text, add_special_tokens=False)["input_ids"]
    assert counted == (len(whole), whole)


@pytest.mark.parametrize("make", [lambda: tiny_decoder("llama"), tiny_encoder])
def test_other_tokenizers_read_whole_texts(make):
    _, spaced = make()
    reader = token_reader(spaced)
    assert not isinstance(reader, WordReader)
    text = "to be  or not\tto be"
    whole = spaced(text, add_special_tokens=False, return_offsets_mapping=True)
    assert reader.count(text) == len(whole["input_ids"])
    assert reader.sequences([text, ""]) == [spaced(text)["input_ids"], spaced("")["input_ids"]]
    np.testing.assert_array_equal(reader.read([text])[0].offsets, whole["offset_mapping"])


@pytest.mark.parametrize(
    "added",
    [
        "new york",
        "new\tyork",
        "new\u2003york",
        "\n",
        AddedToken("\n", special=True),
        AddedToken("<site>", lstrip=True),
        AddedToken("<site>", rstrip=True),
    ],
)
def test_tokens_that_reach_across_a_space_are_read_in_whole_texts(tokenizer, added):
    ours = copy.deepcopy(tokenizer)
    ours.add_tokens([added])
    text = "we saw new york, new\tyork\nnew\u2003york and  <site>  there"
    found = token_reader(ours).read([text])[0]
    whole = ours(text, add_special_tokens=False, return_offsets_mapping=True)
    assert found.ids.tolist() == whole["input_ids"]
    np.testing.assert_array_equal(found.offsets, whole["offset_mapping"])
    ours = copy.deepcopy(tokenizer)
    ours.add_tokens(["<site>"])
    assert isinstance(token_reader(ours), WordReader)
    assert token_reader(ours).count(text) == len(ours(text, add_special_tokens=False)["input_ids"])
