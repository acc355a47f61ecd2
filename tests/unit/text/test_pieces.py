"""Tokens by sentence: white space, tokens across a boundary, sentences without a token."""

import numpy as np

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.pieces import sentence_features, sentence_pieces
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment


def tokens(offsets, values=None):
    rows = np.asarray([np.arange(len(offsets)) if values is None else values], dtype=np.float32)
    return Relevance(np.asarray(offsets, dtype=np.int64).reshape(-1, 2), rows[0], rows)


def test_space_before_a_sentence_goes_either_way():
    text = " One two. Three.  Four."
    given = tokens([(0, 1), (1, 4), (4, 8), (8, 9), (9, 15), (15, 16), (16, 18), (18, 22), (22, 23)])
    assert sentence_pieces(text, given).sentence.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    leading = tokens([(0, 4), (4, 8), (8, 9), (9, 15), (15, 16), (16, 22), (22, 23)])  # " Three", "  Four"
    assert sentence_pieces(text, leading).sentence.tolist() == [0, 0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(sentence_pieces(text, leading).offsets, leading.offsets)


def test_token_across_sentences_is_cut_and_lends_no_score():
    text = "塔很高。它高330米。很多人来看它。"
    starts = [int(segment(text)[0][first, 0]) for first in segment(text)[1]]
    assert starts == [0, 4, 11]
    pieces = sentence_pieces(text, tokens([(0, 3), (3, 5), (5, 10), (10, 12), (12, len(text))]))
    assert pieces.offsets.tolist() == [[0, 3], [3, 4], [4, 5], [5, 10], [10, 11], [11, 12], [12, len(text)]]
    assert pieces.sentence.tolist() == [0, 0, 1, 1, 1, 2, 2]
    np.testing.assert_allclose(sentence_features(pieces)[:, 0], [0.5, 2.0, 3.5], atol=1e-6)
    constant = np.float32([0.1, 0.9, 0.2])[pieces.sentence]
    judged = Relevance(pieces.offsets, constant, constant[None])
    words, first_words = segment(text)
    np.testing.assert_array_equal(
        unit_scores(word_rows(judged, judged.rows, words), first_words), np.float32([0.1, 0.9, 0.2])
    )


def test_token_over_three_sentences():
    text = "One. Two. Three."
    pieces = sentence_pieces(text, tokens([(0, 3), (3, 12), (12, 16)]))
    assert pieces.offsets.tolist() == [[0, 3], [3, 5], [5, 10], [10, 12], [12, 16]]
    assert pieces.sentence.tolist() == [0, 0, 1, 2, 2]


def test_sentence_without_a_token_and_text_without_a_word():
    text = "One. Two. Three."
    features = sentence_features(sentence_pieces(text, tokens([(0, 4), (10, 16)], [3.0, 5.0])))
    assert features.tolist() == [[3.0], [0.0], [5.0]]
    blank = sentence_pieces(" \n", tokens([(0, 1), (1, 2)]))
    assert (blank.n_sentences, blank.sentence.tolist()) == (1, [0, 0])
    assert sentence_features(sentence_pieces("", tokens([]))).shape == (1, 1)
    assert sentence_features(sentence_pieces(text, tokens([]))).tolist() == [[0.0], [0.0], [0.0]]
