"""From a scorer's tokens to the words and units that selection chooses among.

Words take the maximum over their tokens and may be smoothed along the passage, both as in QUITO (arXiv:2408.00274);
tokens are matched to words by character offsets alone, so no tokenizer's space marker matters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.records import Relevance

Floats = NDArray[np.float32]


def word_rows(relevance: Relevance, rows: Floats, word_offsets: NDArray[np.int64], *, sigma: float = 0.0) -> Floats:
    """Merge token rows ``[q, n]`` into word rows float32 ``[q, w]``: maximum over the tokens that touch the word.

    A word that no token touches (characters that a tokenizer drops) gets the row's minimum.

    Args:
        relevance: whose ``offsets`` place the tokens.
        rows: ``relevance.rows`` or ``relevance.scores[None]``.
        word_offsets: ``[w, 2]``.
        sigma: standard deviation in words of the Gaussian smoothing; 0 for none.
    """
    n_words = len(word_offsets)
    floor = rows.min(axis=1, initial=0.0) if rows.shape[1] == 0 else rows.min(axis=1)
    merged = np.repeat(floor[:, None].astype(np.float32), n_words, axis=1)
    starts, ends = relevance.offsets[:, 0], relevance.offsets[:, 1]
    first = np.searchsorted(word_offsets[:, 1], starts, side="right")
    last = np.searchsorted(word_offsets[:, 0], ends, side="left")  # one past the last word the token touches
    n_touched = np.where(ends > starts, np.maximum(last - first, 0), 0)
    token = np.repeat(np.arange(len(starts)), n_touched)
    within = np.arange(len(token)) - np.repeat(np.cumsum(n_touched) - n_touched, n_touched)
    for row, values in zip(merged, rows, strict=True):
        np.maximum.at(row, first[token] + within, values[token])
    return gaussian_smooth(merged, sigma) if sigma > 0 and n_words else merged


def with_rows_of(relevance: Relevance, other: Relevance, factor: float) -> Relevance:
    """``relevance`` with the rows of another scorer's opinion about the same passage added: unit scores add up.

    Args:
        relevance: whose tokens the result has.
        other: opinion over any other tokens; each of ours takes the maximum over those that it touches.
        factor: of the other's scores.
    """
    scale = factor * other.weight / relevance.weight
    rows = word_rows(other, other.rows, relevance.offsets) * np.float32(scale)
    scores = word_rows(other, other.scores[None], relevance.offsets)[0] * np.float32(scale)
    return Relevance(
        relevance.offsets, relevance.scores + scores, np.concatenate([relevance.rows, rows]), relevance.weight
    )


def gaussian_smooth(rows: Floats, sigma: float) -> Floats:
    """Gaussian filter along the last axis of ``[q, w]``, cut at 4 sigma, edges reflected."""
    radius = int(4.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(rows, ((0, 0), (radius, radius)), mode="symmetric")
    return np.stack([np.convolve(row, kernel, mode="valid") for row in padded]).astype(np.float32)


def unit_scores(rows: Floats, first_words: NDArray[np.int64]) -> Floats:
    """Score of each unit ``[s]``: sum over the rows ``[q, w]`` of the best word in the unit.

    With QUITO's one row this is the maximum over the words of the sentence; with one row per query token it is late
    interaction (ColBERT's MaxSim, arXiv:2004.12832).
    """
    if not len(first_words):
        return np.empty(0, dtype=np.float32)
    best: Floats = np.maximum.reduceat(rows, first_words, axis=1)
    total: Floats = best.sum(axis=0, dtype=np.float64).astype(np.float32)
    return total
