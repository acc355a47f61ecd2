"""Texts to tokens, tokens to pieces, pieces to batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ctxcompress_integrations.text.segment import well_formed


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    encoded = tokenizer(
        [well_formed(text) for text in texts], add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return list(encoded["input_ids"])


def equal_cuts(n_tokens: int, longest: int, *, multiple: int = 1) -> list[int]:
    """Lengths of the fewest equal pieces of at most ``longest`` tokens; the last may be shorter.

    Args:
        n_tokens: to be cut.
        longest: a multiple of ``multiple``.
        multiple: of which every length but the last is one.
    """
    n_pieces = -(-n_tokens // longest)
    length = -(-n_tokens // (n_pieces * multiple)) * multiple
    return [min(length, n_tokens - start) for start in range(0, n_tokens, length)]


def batches(widths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of batches whose rows, padded to the widest, stay within the budget; neighbours in width together, so
    that little is padded. A row wider than the budget travels alone.
    """
    batch: list[int] = []
    for i in sorted(range(len(widths)), key=widths.__getitem__):
        if batch and widths[i] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
