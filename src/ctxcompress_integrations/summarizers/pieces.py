"""Texts to tokens, tokens to segments and pieces, pieces to batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from ctxcompress_integrations.text.segment import segment, well_formed

Item = TypeVar("Item")
Made = TypeVar("Made")


class Tokens(NamedTuple):
    """A text in tokens, without special ones.

    Attributes:
        ids: of the tokens.
        sentences: how many tokens stand before each sentence but the first, ascending; empty where nobody asked.
    """

    ids: list[int]
    sentences: list[int]


def tokens_of(tokenizer: Any, texts: Sequence[str], *, sentences: bool = False) -> list[Tokens]:
    """Tokens of each text by a fast tokenizer, with the beginnings of its sentences if they are asked for."""
    encoded = tokenizer(
        [well_formed(text) for text in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=sentences,
        verbose=False,
    )
    if not sentences:
        return [Tokens(ids, []) for ids in encoded["input_ids"]]
    found = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [Tokens(ids, _beginnings(text, [end for _, end in offsets])) for text, ids, offsets in found]


def _beginnings(text: str, token_ends: Sequence[int]) -> list[int]:
    """The first token that reaches into each sentence but the first: a token may begin with the space before it."""
    words, firsts = segment(text)
    starts = words[firsts[1:], 0].tolist()
    return sorted({bisect_right(token_ends, start) for start in starts})


def equal_cuts(n_tokens: int, longest: int, *, multiple: int = 1) -> list[int]:
    """Lengths of the fewest equal segments of at most ``longest`` tokens; the last may be shorter.

    Args:
        n_tokens: to be cut.
        longest: a multiple of ``multiple``.
        multiple: of which every length but the last is one.
    """
    n_pieces = -(-n_tokens // longest)
    length = -(-n_tokens // (n_pieces * multiple)) * multiple
    return full_cuts(n_tokens, length)


def full_cuts(n_tokens: int, length: int) -> list[int]:
    """Lengths of segments of exactly ``length`` tokens; the last may be shorter."""
    return [min(length, n_tokens - start) for start in range(0, n_tokens, length)]


def aligned_cuts(n_tokens: int, n_segments: int, ends: Sequence[int]) -> list[int]:
    """Lengths of as many segments, each cut at the sentence end that is nearest to where an equal one would be.

    No cut moves farther than half an equal segment: none is empty, and none is twice as long. Where no sentence ends
    that near, the cut stays inside one.

    Args:
        n_tokens: at least one per segment.
        n_segments: how many.
        ends: tokens before each possible cut, ascending.
    """
    cuts = [0, *(_nearest(i, n_tokens, n_segments, ends) for i in range(1, n_segments)), n_tokens]
    return [after - before for before, after in pairwise(cuts)]


def _nearest(i: int, n_tokens: int, n_segments: int, ends: Sequence[int]) -> int:
    # times 2 n_segments everything is whole, and no end lies in two windows: each is open below and closed above
    scale, middle, half = 2 * n_segments, 2 * i * n_tokens, n_tokens
    low, high = (bisect_right(ends, (middle + side) // scale) for side in (-half, half))
    return min(ends[low:high], key=lambda end: abs(end * scale - middle), default=(middle + n_segments) // scale)


def cut(
    ids: Sequence[int], lengths: Sequence[Sequence[int]], ends: Sequence[int] | None
) -> list[Sequence[Sequence[int]]]:
    """The segments of each piece of a passage.

    Args:
        ids: tokens of the passage.
        lengths: of the segments of each piece.
        ends: of sentences, where cuts are to be moved there (:func:`aligned_cuts`).
    """
    flat = list(chain.from_iterable(lengths))
    if ends is not None:
        flat = aligned_cuts(len(ids), len(flat), ends)
    return _split(_split(ids, flat), list(map(len, lengths)))


def _split(items: Sequence[Item], lengths: Sequence[int]) -> list[Sequence[Item]]:
    """Neighbouring runs of these lengths."""
    return [items[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]


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


def gathered(
    pieces: Sequence[Sequence[Item]],
    encode: Callable[[Sequence[Item]], Sequence[Made]],
    width: Callable[[Item], int],
    budget: int,
) -> Iterator[tuple[int, list[Made]]]:
    """Each passage's number and what its pieces were made into, as soon as all of them are; in batches across passages.

    Args:
        pieces: of each passage.
        encode: makes a batch.
        width, budget: positions of a piece, and of a batch, as :func:`batches` says.
    """
    places = [(i, j) for i, of_passage in enumerate(pieces) for j in range(len(of_passage))]
    parts: dict[int, dict[int, Made]] = {}
    for batch in batches([width(pieces[i][j]) for i, j in places], budget):
        made = encode([pieces[i][j] for i, j in (places[k] for k in batch)])
        for (i, j), one in zip((places[k] for k in batch), made, strict=True):
            parts.setdefault(i, {})[j] = one
            if len(parts[i]) == len(pieces[i]):
                yield i, [one for _, one in sorted(parts.pop(i).items(), key=itemgetter(0))]
