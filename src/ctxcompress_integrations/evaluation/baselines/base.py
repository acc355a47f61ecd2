"""What baselines share: one value per sentence, forwards of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.text.segment import segment, well_formed


def sentences_of(text: str) -> list[str]:
    """The sentences of one passage, without the white space between them, fit for native libraries."""
    words, first_words = segment(text)
    clean = well_formed(text)
    bounds = [*first_words.tolist(), len(words)]
    return [clean[words[first, 0] : words[following - 1, 1]] for first, following in pairwise(bounds)]


def by_sentence(text: str, values: ArrayLike, word_values: ArrayLike | None = None) -> Relevance:
    """A relevance whose evidence is constant over each sentence.

    Args:
        text: one passage.
        values: ``[s]``, one per sentence of it.
        word_values: ``[w]``, what phrases are chosen by; None for the sentence's value.
    """
    words, first_words = segment(text)
    lengths = np.diff(np.append(first_words, len(words)))
    evidence = np.repeat(np.asarray(values, dtype=np.float32), lengths)
    scores = evidence if word_values is None else np.asarray(word_values, dtype=np.float32)
    return Relevance(words, scores, evidence[None])


def word_means(values: ArrayLike, offsets: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of token values ``[n]`` over the tokens that touch each word, ``[w]``; 0 where none does."""
    first = np.searchsorted(words[:, 1], offsets[:, 0], side="right")
    last = np.maximum(first, np.searchsorted(words[:, 0], offsets[:, 1], side="left"))
    sums = np.zeros((2, len(words) + 1))
    for row, amounts in zip(sums, (np.asarray(values), np.ones(len(offsets))), strict=True):
        np.add.at(row, first, amounts)
        np.subtract.at(row, last, amounts)
    totals, counts = sums.cumsum(axis=1)[:, :-1]
    means: NDArray[np.float64] = totals / np.maximum(counts, 1)
    return means


def batches(lengths: Sequence[int], batch_tokens: int, *, pads: bool) -> Iterator[list[int]]:
    """Numbers of the sequences that share a forward, shortest first.

    Args:
        lengths: tokens of each sequence.
        batch_tokens: tokens of one forward, padding included; a longer sequence goes alone.
        pads: whether lengths may differ inside a batch. On a CPU they should not: then even bf16 gives the same
            numbers whatever a sequence travels with.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        is_full = lengths[i] * (len(batch) + 1) > batch_tokens
        if batch and (is_full or (not pads and lengths[i] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
