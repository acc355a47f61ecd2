"""Counting tokens exactly: what a reader will see is what is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ctxcompress_integrations._numbers import as_python
from ctxcompress_integrations.records import PASSAGE_SEPARATOR, join_passages
from ctxcompress_integrations.text.segment import well_formed

TokenCounter = Callable[[str], int]
SHARED_LENGTH, SHARED_SIZE = 500, 20_000
"""Strings up to so many characters, and so many of them, are remembered beyond a request: sentences come again."""


def as_counter(tokenizer: Any) -> TokenCounter:
    """A function from text to its number of tokens, without special tokens.

    Args:
        tokenizer: a callable ``str -> int``, a Hugging Face tokenizer, a ``tokenizers.Tokenizer`` or a tiktoken
            encoding.

    Raises:
        ValueError: when it is none of these.
    """
    if hasattr(tokenizer, "encode_ordinary"):  # tiktoken
        return lambda text: len(tokenizer.encode_ordinary(text))
    if hasattr(tokenizer, "convert_tokens_to_ids"):  # transformers
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    if hasattr(tokenizer, "encode_batch"):  # tokenizers
        return lambda text: _count(tokenizer, text)
    if not callable(tokenizer):
        raise ValueError(f"count_tokens must be a function from str to int or a tokenizer, got {tokenizer!r}")
    counter: TokenCounter = tokenizer
    return counter


def _count(tokenizer: Any, text: str) -> int:
    """Tokens for a ``tokenizers.Tokenizer`` that may cut and pad: what it cuts off counts, its padding does not."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    overlap = tokenizer.truncation["stride"] if encoded.overflowing else 0
    n: int = sum(encoded.attention_mask) + sum(sum(rest.attention_mask) - overlap for rest in encoded.overflowing)
    return n


class Meter:
    """Counts tokens for one request and counts no string twice.

    The total of a set of passages is the larger of two readings: all of them joined by a blank line (one prompt) and
    the sum of each counted alone (documents that a host formats itself); a budget holds under both.
    """

    def __init__(self, count: TokenCounter, shared: dict[str, int] | None = None) -> None:
        """``shared`` are counts by the same function that outlive the request."""
        self._count = count
        self._memo: dict[str, int] = {}
        self._shared = {} if shared is None else shared

    def count(self, text: str) -> int:
        """Tokens of ``text``; ``ValueError`` when the counter returns something that is not a count."""
        known = self._shared.get(text)
        known = self._memo.get(text) if known is None else known
        if known is not None:
            return known
        n = as_python(self._count(well_formed(text))) if text else 0  # tokenizers refuse half a surrogate pair
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"count_tokens must return a number of tokens, got {n!r} for {text[:40]!r}")
        if len(text) > SHARED_LENGTH:
            self._memo[text] = n
            return n
        if len(self._shared) >= SHARED_SIZE:
            self._shared.clear()  # rare, and cheaper than keeping an order
        self._shared[text] = n
        return n

    def joined(self, texts: Sequence[str]) -> int:
        """Tokens of the texts as one prompt."""
        return self.count(join_passages(texts))

    def total(self, texts: Sequence[str]) -> int:
        """The larger of :meth:`joined` and the sum over the texts."""
        return max(self.joined(texts), sum(map(self.count, texts)))

    @property
    def separator(self) -> int:
        """Tokens of the blank line between two passages."""
        return self.count(PASSAGE_SEPARATOR)
