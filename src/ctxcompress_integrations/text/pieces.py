"""Rows over tokens -> features of sentences: the mean over each sentence's tokens, and nothing of its neighbours'."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.segment import segment

Floats = NDArray[np.float32]


class SentencePieces(NamedTuple):
    """Context tokens, those that reach into several sentences cut between them; ``n`` counts the pieces.

    Attributes:
        offsets: int64 ``[n, 2]``.
        sentence: int64 ``[n]``, the sentence that each lies in.
        rows: float32 ``[f, n]``, what each head or other feature gives each token.
        n_sentences: of the text; at least 1.
    """

    offsets: NDArray[np.int64]
    sentence: NDArray[np.int64]
    rows: Floats
    n_sentences: int


def sentence_pieces(text: str, tokens: Relevance) -> SentencePieces:
    """The tokens of ``text`` and their evidence, by sentence; white space goes with what stands before it.

    A sentence is worth its best word, and a word the best token that touches it: uncut, a token of two sentences
    ("。它") would lend one of them the other's score.
    """
    words, first_words = segment(text)
    starts, ends = tokens.offsets[:, 0], tokens.offsets[:, 1]
    if not len(words):
        return SentencePieces(tokens.offsets, np.zeros(len(starts), dtype=np.int64), tokens.rows, 1)
    last_word = np.maximum(np.searchsorted(words[:, 0], ends, side="left") - 1, 0)
    first_word = np.minimum(np.searchsorted(words[:, 1], starts, side="right"), last_word)
    first, last = (np.searchsorted(first_words, word, side="right") - 1 for word in (first_word, last_word))
    token = np.repeat(np.arange(len(starts)), last - first + 1)
    begin = np.cumsum(last - first + 1) - (last - first + 1)
    sentence = first[token] + np.arange(len(token)) - begin[token]
    opening = words[first_words, 0]  # first character of each sentence
    closing = np.append(opening[1:], len(text))
    offsets = np.stack(
        [
            np.where(sentence == first[token], starts[token], opening[sentence]),
            np.where(sentence == last[token], ends[token], closing[sentence]),
        ],
        axis=1,
    )
    return SentencePieces(offsets, sentence, tokens.rows[:, token], len(first_words))


def sentence_features(pieces: SentencePieces) -> Floats:
    """Mean per sentence, float32 ``[s, f]``; 0 for a sentence that the tokenizer gave no token."""
    features = np.zeros((pieces.n_sentences, len(pieces.rows)), dtype=np.float32)
    if len(pieces.sentence):
        order = np.argsort(pieces.sentence, kind="stable")
        present, starts, counts = np.unique(pieces.sentence[order], return_index=True, return_counts=True)
        features[present] = (np.add.reduceat(pieces.rows[:, order], starts, axis=1) / counts).T
    return features
