"""How far retrieved passages are pruned, so that they fit beside their labels and vectors in one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ctxcompress_integrations.allocation import label
from ctxcompress_integrations.records import PASSAGE_SEPARATOR, CompressionResult, Passage, SummaryVectors

LEAST_TEXT = 24
"""Tokens for which passages are pruned beside vectors: about a sentence."""
MAX_ROOMS = 8
"""Compressions of one request that look for the room beside labels."""


def pruned_within(
    budget: int,
    compress: Callable[[int], CompressionResult],
    passages: Sequence[Passage],
    summaries: Mapping[str, SummaryVectors],
    count_tokens: Callable[[str], int],
) -> CompressionResult:
    """What a compressor keeps when labels and vectors have taken their share of the budget: input for
    :func:`~ctxcompress_integrations.allocation.allocate`.

    A wider room lets more passages in, and their labels narrow it again: it is tried from what the fewest labels leave,
    down to what those of the passages that were kept leave.

    Args:
        budget: reader positions for all of it.
        compress: a token budget -> the passages, compressed to it; called at most ``MAX_ROOMS`` times, twice if
            it remembers no scores.
        passages: as retrieved.
        summaries: vectors by passage id; a passage that becomes text gives its vectors back.
        count_tokens: the reader's.
    """
    separator = count_tokens(PASSAGE_SEPARATOR)
    labels = {p.id: count_tokens(label(number, p.title)) + separator for number, p in enumerate(passages, start=1)}

    def left(with_text: set[str]) -> int:
        others = sum(labels[id_] + vectors.n_vectors for id_, vectors in summaries.items() if id_ not in with_text)
        return max(1, budget - others - sum(labels[id_] for id_ in with_text))

    def used(result: CompressionResult) -> set[str]:
        return {p.id for p in result.passages if not p.is_empty}

    room = left({p.id for p in passages if p.id not in summaries})
    careful = compress(room)
    if summaries and room < LEAST_TEXT:  # a few words say less than the vectors that they would replace
        nothing = [replace(p, text="", spans=()) for p in careful.passages]
        return replace(careful, passages=nothing, n_tokens_out=0)
    room = left(used(careful))
    for _ in range(MAX_ROOMS - 1):
        wide = compress(room)
        room = left(used(wide))
        if wide.n_tokens_out <= room:
            return max(careful, wide, key=lambda result: result.n_tokens_out)
        if not wide.from_cache:  # its scores are not remembered: another one would cost a forward
            break
    return careful
