"""Texts -> token ids and the characters that each stands for. BERT's tokenizers never look across white space: with
them a word of some letters is tokenized once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
N_WORDS, LONGEST, MOST_TOKENS = 50_000, 32, 8
"""Words that are remembered, 14 to 22 MB, and the characters and tokens that one may have."""
_SPACES = str.maketrans("\t\n\r", "   ")  # the others are control characters to some tokenizers, which drop them


class Tokens(NamedTuple):
    """Tokens of one text, without special tokens."""

    ids: Ids  # [n]
    offsets: Ids  # [n, 2], characters


class TokenReader:
    """What a tokenizer makes of texts, whatever truncation and padding it was last asked for: they are state that all
    threads share, so texts are cut here.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Attributes:
        first, last: ids of the special tokens before and after a text.
        unknown: id for what the vocabulary cannot spell; None where it can spell everything.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.unknown: int | None = tokenizer.unk_token_id
        probe = tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids, is_special = list(probe["input_ids"]), list(probe["special_tokens_mask"])
        at = is_special.index(0) if 0 in is_special else len(ids)
        self.first, self.last = ids[:at], [i for i, s in zip(ids[at:], is_special[at:], strict=True) if s]

    def read(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Tokens]:
        """Tokens of each text, those that fit ``max_tokens`` beside the special tokens."""
        if not texts:
            return []
        room = None if max_tokens is None else max(0, max_tokens - len(self.first) - len(self.last))
        return [Tokens(ids[:room], offsets[:room]) for ids, offsets in self._read(texts)]

    def sequences(self, texts: Sequence[str], max_tokens: int | None = None) -> list[list[int]]:
        """Ids of each text between the special tokens, at most ``max_tokens`` together."""
        return [self.framed(found.ids.tolist()) for found in self.read(texts, max_tokens)]

    def framed(self, ids: Sequence[int]) -> list[int]:
        """Ids between the special tokens."""
        return [*self.first, *ids, *self.last]

    def count(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        return len(self.read([text])[0].ids)

    def _read(self, texts: Sequence[str]) -> list[Tokens]:
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [
            Tokens(np.asarray(ids, dtype=np.int64), np.asarray(offsets, dtype=np.int64).reshape(-1, 2))
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]


class WordReader(TokenReader):
    """Remembers the tokens of words; exact for tokenizers to which a space is always a border.

    Tokens that are added to the tokenizer later are not seen.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)  # the other's truncation is whatever was asked last
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens  # a copy forgets it
        self._known: dict[str, tuple[int, ...]] = {"": ()}  # id, start, end; id, start, end ...

    def count(self, text: str) -> int:
        (tokens,) = self._tokens_of([text.translate(_SPACES).split(" ")])
        return sum(map(len, tokens)) // 3

    def _read(self, texts: Sequence[str]) -> list[Tokens]:
        split = [text.translate(_SPACES).split(" ") for text in texts]
        return [_joined(words, tokens) for words, tokens in zip(split, self._tokens_of(split), strict=True)]

    def _tokens_of(self, split: Sequence[list[str]]) -> list[list[tuple[int, ...]]]:
        """Of each word of each text."""
        known = self._known  # threads go on with what they hold
        missing = list(set().union(*split).difference(known))
        if not missing:
            return [list(map(known.__getitem__, words)) for words in split]
        fresh = dict(zip(missing, self._tokenized(missing), strict=True))
        if len(known) + len(fresh) > N_WORDS:
            self._known = {"": ()}  # rare, and cheaper than keeping an order
        short = ((w, t) for w, t in fresh.items() if len(w) <= LONGEST and len(t) <= 3 * MOST_TOKENS)
        self._known |= dict(islice(short, N_WORDS - 1))
        return [[fresh[word] if word in fresh else known[word] for word in words] for words in split]

    def _tokenized(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Of words as one text: the tokenizer's own way for a batch takes half as long again."""
        starts = _starts(words)
        encoded = self._backend.encode(" ".join(words), add_special_tokens=False)
        table = np.column_stack([encoded.ids, np.asarray(encoded.offsets).reshape(-1, 2)]).astype(np.int64)
        ends = np.searchsorted(table[:, 1], [*starts[1:], np.iinfo(np.int64).max])
        table[:, 1:] -= starts[np.searchsorted(starts, table[:, 1], side="right") - 1][:, None]
        flat, borders = table.ravel().tolist(), [0, *(3 * ends).tolist()]
        return [tuple(flat[start:end]) for start, end in pairwise(borders)]


def token_reader(tokenizer: Any) -> TokenReader:
    """For a fast tokenizer of transformers: word by word where it is BERT's, and no token that was added to it reaches
    across white space.
    """
    backend = tokenizer.backend_tokenizer
    parts = [type(getattr(backend, name, None)).__name__ for name in ("normalizer", "pre_tokenizer", "model")]
    added = backend.get_added_tokens_decoder().values()
    is_across_words = any(token.lstrip or token.rstrip or token.content.split() != [token.content] for token in added)
    is_by_words = parts == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not is_across_words
    return WordReader(tokenizer) if is_by_words else TokenReader(tokenizer)


def _joined(words: Sequence[str], tokens: Sequence[tuple[int, ...]]) -> Tokens:
    """Of the text that the words make with single characters between them."""
    table = np.fromiter(chain.from_iterable(tokens), np.int64).reshape(-1, 3)
    n_tokens = np.fromiter(map(len, tokens), np.int64, len(tokens)) // 3
    return Tokens(table[:, 0].copy(), table[:, 1:] + _starts(words).repeat(n_tokens)[:, None])


def _starts(words: Sequence[str]) -> Ids:
    """First character of each word, int64 ``[w]``, in the text that they make with single characters between them."""
    lengths = np.fromiter(map(len, words), np.int64, len(words)) + 1
    starts: Ids = np.cumsum(lengths) - lengths
    return starts
