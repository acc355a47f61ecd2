"""Words and sentences in every script."""

from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from ctxcompress_integrations.text.segment import MAX_SENTENCE, segment, sentences, words

ANY_TEXT = st.text(alphabet=st.one_of(st.characters(codec=None), st.sampled_from(" \n\t.。!?،ที่พ塔😀\u200d\u0301")))


def pieces(text):
    offsets, first = segment(text)
    ends = np.append(first[1:], len(offsets))
    return [text[offsets[a, 0] : offsets[b - 1, 1]] for a, b in zip(first, ends, strict=True)]


@given(ANY_TEXT)
@example("0\u0e33")  # a digit and Thai SARA AM are one grapheme, with a word boundary inside
def test_words_cover_everything_but_white_space_and_never_cut_a_grapheme(text):
    offsets = words(text)
    covered = np.zeros(len(text), dtype=bool)
    for start, end in offsets:
        assert start < end
        covered[start:end] = True
    assert all(a[1] <= b[0] for a, b in pairwise(offsets))
    assert all(covered[i] or regex.match(r"\s", text[i]) for i in range(len(text)))
    edges = {0, len(text), *(m.end() for m in regex.finditer(r"\X", text))}
    inner = {int(a[1]) for a, b in pairwise(offsets) if a[1] == b[0]}
    assert inner <= edges


@given(ANY_TEXT)
def test_sentences_are_ranges_of_whole_words(text):
    offsets = words(text)
    first = sentences(text, offsets)
    assert (len(first) == 0) == (len(offsets) == 0)
    if len(first):
        assert first[0] == 0
        assert (np.diff(first) > 0).all()
        assert first[-1] < len(offsets)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.5 million. He left.", ["Dr. Smith paid $3.5 million.", "He left."]),
        ("Er kam z. B. am 3. Mai an. Dann ging er.", None),
        ("塔很高。它在巴黎。", ["塔很高。", "它在巴黎。"]),
        ("ما اسمك؟ أنا هنا.", ["ما اسمك؟", "أنا هنا."]),
        ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("- item one\n- item two", ["- item one", "- item two"]),
        ("One paragraph\n\nAnother", ["One paragraph", "Another"]),
    ],
)
def test_boundaries(text, expected):
    found = pieces(text)
    assert found == expected if expected else 2 <= len(found) <= 3


@pytest.mark.parametrize(
    ("lang", "low", "high"), [("de", 0.85, 1.2), ("zh", 0.85, 1.3), ("ar", 0.7, 1.2), ("hi", 0.85, 1.2), ("th", 0.7, 4)]
)
def test_parallel_paragraphs_have_about_as_many_sentences_as_in_english(xquad, lang, low, high):
    """The same paragraphs, translated sentence by sentence; Thai has no full stop and is cut at clauses."""
    contexts = {code: list(dict.fromkeys(r["context"] for r in xquad if r["lang"] == code)) for code in ("en", lang)}
    n_english, n_other = (sum(len(pieces(text)) for text in contexts[code]) for code in ("en", lang))
    assert len(contexts["en"]) >= 10
    assert low <= n_other / n_english <= high


@pytest.mark.parametrize("lang", ["en", "de", "zh", "ar", "hi", "th"])
def test_answers_are_rarely_cut_by_a_sentence_boundary(xquad, lang):
    rows = [r for r in xquad if r["lang"] == lang]
    kept = [any(r["answers"][0]["text"] in piece for piece in pieces(r["context"])) for r in rows]
    assert np.mean(kept) >= (0.85 if lang == "th" else 0.97)


def test_text_without_punctuation_is_capped():
    text = "word " * 2000
    assert max(map(len, pieces(text))) <= MAX_SENTENCE + 10
    assert len(pieces("a" * 50_000)) <= 51
    assert " ".join(pieces(text)) == text.strip()


def test_scripts_without_spaces_have_words():
    assert len(words("黑豹队的防守")) == 6
    assert len(words("ทีมรับของแพน")) > 3
    assert [tuple(w) for w in words("a bc")] == [(0, 1), (2, 4)]
    assert len(words("well-known can't 3.5km")) == 3


def test_one_german_word_makes_no_german_text():
    text = "Many people die in phase 3. The second group lived."
    _, starts = segment(text)
    assert len(starts) == 2


def test_a_megabyte_is_fast_enough_to_be_one_passage():
    text = "Sentence number one is here. " * 36_000
    offsets, first = segment(text)
    assert len(first) == 36_000
    assert len(offsets) == 180_000
