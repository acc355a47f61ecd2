"""Counting tokens without tokenizing the same words again: BERT's tokenizers never look across white space."""

from __future__ import annotations

import copy
from typing import Any

from ctxcompress_integrations.text.budget import TokenCounter, as_counter

N_WORDS, LONGEST = 100_000, 64
"""Words that are remembered, and the characters that one may have."""
_SPACES = str.maketrans("\t\n\r", "   ")  # the others are control characters to some tokenizers, which drop them


def token_counter(tokenizer: Any) -> TokenCounter:
    """Counts tokens of a text without special tokens; word by word where the tokenizer is BERT's."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [type(getattr(backend, name, None)).__name__ for name in ("normalizer", "pre_tokenizer", "model")]
    is_by_words = parts == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
    return WordCounts(tokenizer) if is_by_words else as_counter(tokenizer)


class WordCounts:
    """A counter that remembers the tokens of words; exact for tokenizers to which a space is always a border.

    Args:
        tokenizer: a fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)  # the other's truncation is whatever was asked last
        self._backend.no_truncation()
        self._backend.no_padding()
        self._known: dict[str, int] = {"": 0}

    def __call__(self, text: str) -> int:
        words, known = text.translate(_SPACES).split(" "), self._known
        missing = list({word for word in words if word not in known})
        if not missing:
            return sum(map(known.__getitem__, words))
        encoded = self._backend.encode_batch_fast(missing, add_special_tokens=False)
        fresh = {word: len(found.ids) for word, found in zip(missing, encoded, strict=True)}
        if len(known) >= N_WORDS:
            self._known = {"": 0}  # rare, and cheaper than keeping an order; threads go on with what they hold
        self._known |= {word: n for word, n in fresh.items() if len(word) <= LONGEST}
        return sum(fresh[word] if word in fresh else known[word] for word in words)
