"""A prompt in parts: texts, and summary vectors between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.text.segment import well_formed

Part: TypeAlias = str | SummaryVectors


def split_parts(parts: Sequence[Part]) -> tuple[list[str], list[SummaryVectors]]:
    """The texts before, between and after the vectors (one more than there are vectors, "" for none), and the vectors.

    Neighbouring texts are one text: they are tokenised together.

    Raises:
        ValueError: something that is no part, a single text instead of a list, or nothing to read at all.
    """
    if isinstance(parts, str | SummaryVectors):
        raise ValueError(f"parts must be a list of str and SummaryVectors, got {parts!r:.80}: wrap it in a list")
    texts, vectors = [""], []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            texts[-1] += well_formed(part)
        elif isinstance(part, SummaryVectors):
            vectors.append(part)
            texts.append("")
        else:
            raise ValueError(f"part {i} must be a str or SummaryVectors, got {type(part).__name__}: {part!r:.80}")
    if not vectors and not texts[0].strip():
        raise ValueError(f"there is nothing to read in the parts {list(parts)!r:.80}")
    return texts, vectors


def count_positions(parts: Sequence[Part], count_tokens: Callable[[str], int]) -> int:
    """Reader positions of the parts: tokens of the texts, neighbouring ones counted as one, and one for each vector."""
    if not parts:
        return 0
    texts, vectors = split_parts(parts)
    return sum(count_tokens(text) for text in texts if text) + sum(summary.n_vectors for summary in vectors)
