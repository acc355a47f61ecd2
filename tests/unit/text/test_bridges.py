"""Passages that name each other, against the rule written out sentence by sentence."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.bridges import GOOD, NAMED, NAMING, bridged, name_of
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment, words

TITLES = ["Ada Lovelace", "Charles Babbage (mathematician)", "Difference_engine", "London", ""]
NAMES = ["Ada Lovelace", "Charles Babbage", "Difference engine", "London", ""]
SENTENCES = [
    "Ada Lovelace wrote to him.",
    "Charles Babbage lived in London.",
    "The Difference engine was never finished.",
    "Londoners did not mind.",
    "Nobody came, and nobody asked why.",
]


def relevance(text, values, weight=1.0):
    """One token per word, two rows of evidence."""
    offsets = words(text)
    rows = np.resize(np.asarray(values, dtype=np.float32), (2, len(offsets)))
    return Relevance(offsets, rows.max(axis=0, initial=0), rows, weight)


def sentence_scores(text, relevance):
    places, first_words = segment(text)
    return unit_scores(word_rows(relevance, relevance.rows, places) * relevance.weight, first_words)


def sentences(text):
    places, first_words = segment(text)
    bounds = [*first_words, len(places)]
    return [text[places[a, 0] : places[b - 1, 1]] for a, b in itertools.pairwise(bounds)]


def literal(texts, names, relevances):
    """The scores of all sentences after the rule, one list per passage."""
    scores = [sentence_scores(text, r) for text, r in zip(texts, relevances, strict=True)]
    floor = np.quantile(np.concatenate(scores), GOOD)
    after = []
    for p, text in enumerate(texts):
        gains = []
        for own in sentences(text):
            gain = 0.0
            for q, other in enumerate(texts):
                if names[q] and names[p] != names[q] and names[q] in own.replace("Londoners", ""):
                    gain = max(gain, NAMING * (max(scores[q]) - floor))
                for s, sentence in enumerate(sentences(other)):
                    if names[p] and names[p] != names[q] and names[p] in sentence.replace("Londoners", ""):
                        gain = max(gain, NAMED * (scores[q][s] - floor))
            gains.append(gain)
        after.append(scores[p] + np.asarray(gains, dtype=np.float32))
    return after


@given(st.data())
def test_every_sentence_gains_what_the_rule_says(data):
    chosen = data.draw(st.lists(st.integers(0, len(TITLES) - 1), min_size=2, max_size=5))
    texts = [" ".join(data.draw(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4))) for _ in chosen]
    values = st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=30)
    relevances = [relevance(t, data.draw(values), data.draw(st.sampled_from([0.5, 1.0, 3.0]))) for t in texts]
    found = bridged(texts, [TITLES[i] for i in chosen], relevances)
    names = [NAMES[i] for i in chosen]
    expected = literal(texts, names, relevances) if len(set(names) - {""}) > 1 else None
    for p, (text, before, after) in enumerate(zip(texts, relevances, found, strict=True)):
        wanted = sentence_scores(text, before) if expected is None else expected[p]
        np.testing.assert_allclose(sentence_scores(text, after), wanted, atol=1e-5)
        np.testing.assert_array_equal(after.scores, before.scores)  # what phrases are chosen by stays


def test_the_second_hop_overtakes_and_nothing_else_moves():
    texts = [
        "Polish War is a film. It was made by Ann Smith.",
        "She is the daughter of Eve Stone.",
        "Rain fell. It was cold.",
    ]
    relevances = [relevance(t, [v]) for t, v in zip(texts, (0.9, 0.2, 0.3), strict=True)]
    relevances[0] = relevance(texts[0], [0.5] * 5 + [0.9] * 6)
    found = bridged(texts, ["Polish War (film)", "Ann Smith", "Weather"], relevances)
    before, after = ([max(sentence_scores(t, r)) for t, r in zip(texts, rs, strict=True)] for rs in (relevances, found))
    assert before[1] < before[2] < after[1]
    assert found[2] is relevances[2]


@pytest.mark.parametrize("titles", [["", "", ""], ["Same"] * 3, ["Ann", "Bob", "Eve"], ["Only one", "", ""]])
def test_without_two_names_nothing_changes(titles):
    relevances = [relevance(text, [0.5]) for text in SENTENCES[:3]]
    assert all(a is b for a, b in zip(bridged(SENTENCES[:3], titles, relevances), relevances, strict=True))


def test_texts_without_tokens_or_words_are_left_alone():
    empty = Relevance(np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32))
    found = bridged(["", "  ", "Ada Lovelace."], ["London", "Ada Lovelace", "Paris"], [empty, empty, empty])
    assert found == [empty, empty, empty]
    one = relevance("Ada Lovelace wrote.", [0.5])
    assert len(bridged(["", "Ada Lovelace wrote."], ["Ada Lovelace", "Paris"], [empty, one])[0].offsets) == 0


def test_names_are_titles_as_a_text_writes_them():
    assert [name_of(title) for title in TITLES] == NAMES
    assert name_of("(Untitled)") == ""
    assert name_of("[a.b*] (x)") == "[a.b*]"
