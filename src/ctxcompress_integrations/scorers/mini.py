"""mini: late interaction between the query's and the passage's token vectors of a small encoder.

Evidence of query token i in context token j is the cosine of their vectors times the query token's weight; a sentence
is worth the sum over query tokens of its best match (ColBERT's MaxSim, arXiv:2004.12832), mixed with the same for its
whole passage and with the cosine of the two mean states, so that a unit's score is a mean cosine in [-1, 1] whatever
the length of the question. A passage's title is read before its text and never kept. The score of one context token is
how much the query's trigger, its first token, matches it: trained to point at the answer.

Passages of one request that name each other's titles lend each other relevance (``text/bridges.py``): the second hop of
a question shares no words with it.

Where the vocabulary, which is English, knows a question only letter by letter, BM25's opinion is mixed in: the more,
the stranger the question.

The shipped weights fine-tune all-MiniLM-L6-v2 (docs/mini.md). Any other encoder is used as published: equal weights,
its best cosine as a token's score. The passage never sees the query, so its vectors are kept for later questions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import regex
from numpy.typing import NDArray

from ctxcompress_integrations.hf.encoder import TokenVectors, UntrainedEncoder
from ctxcompress_integrations.hf.load import MINI, load_encoder, load_trained
from ctxcompress_integrations.hf.token_reader import TokenReader
from ctxcompress_integrations.nn.late_interaction import QueryVectors
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import PairScorer, ScoreRequest, Window, refuse, refuse_beside_fast
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.text.bridges import bridged
from ctxcompress_integrations.text.relevance import with_rows_of
from ctxcompress_integrations.text.segment import well_formed

SHIPPED = Path(__file__).parent.parent / "weights" / "mini.safetensors"
SHIPPED_FAST = SHIPPED.with_name("mini-fast.safetensors")
UNTRAINED = "none"
"""What ``weights`` says to use the encoder as published."""
CACHE_BYTES = 256 * 2**20
KNOWN, LEXICAL_SLOPE, MOST_LEXICAL = 0.08, 10.0, 2.0
"""Strangeness that English questions hardly reach (their 97th percentile), and how BM25's share grows beyond it."""
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]*")
_Piece: TypeAlias = tuple[str, str]
"""A title and a text that are read together."""


class TokenEncoder(Protocol):
    """What ``mini`` needs of a model."""

    max_tokens: int
    max_query_tokens: int
    card: dict[str, Any]
    reader: TokenReader

    def query_vectors(self, texts: Sequence[str]) -> list[QueryVectors]: ...

    def passage_vectors(self, texts: Sequence[str], titles: Sequence[str]) -> list[TokenVectors]: ...


class Mini(PairScorer):
    """Late interaction with a small encoder.

    Args:
        encoder: token vectors of queries and passages.
        cache_bytes: memory for the vectors of passages seen before; 0 keeps none.
        lexical: mixed in for questions that the vocabulary does not know; None for never.
        has_bridges: whether passages that name each other lend each other relevance.
    """

    name: ClassVar[str] = "mini"
    has_fast: ClassVar[bool] = True
    overlap = 32
    batch_tokens = 16384

    def __init__(
        self,
        encoder: TokenEncoder,
        *,
        cache_bytes: int = CACHE_BYTES,
        lexical: Lexical | None = None,
        has_bridges: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.lexical, self.has_bridges = encoder, lexical, has_bridges
        self.thresholds = dict(encoder.card.get("thresholds", {}))
        self._passages = _PassageCache(cache_bytes)

    @classmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
        fast: bool = False,
    ) -> Self:
        """As :meth:`Scorer.load`; ``weights`` is a safetensors file that ``ctxcompress train mini`` (or ``mini-fast``)
        made for this encoder, or "none" to use the encoder as published; ``fast`` takes the thin one that ships.
        """
        refuse(cls.name, layer=layer)
        refuse_beside_fast(fast, model, weights)
        name = model or MINI
        if weights is None:
            shipped = SHIPPED_FAST if fast else SHIPPED
            weights = shipped if name == MINI else UNTRAINED
        if str(weights) == UNTRAINED:
            return cls(UntrainedEncoder(*load_encoder(name, device=device, dtype=dtype), name=name))
        lexical = Lexical() if name == MINI else None
        encoder = load_trained(Path(weights), name, device=device, dtype=dtype)
        return cls(encoder, lexical=lexical, has_bridges=True)

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[Relevance]]:
        scored = super().score(requests)
        scored = [self._with_words(request, found) for request, found in zip(requests, scored, strict=True)]
        if not self.has_bridges:
            return scored
        return [
            bridged(list(map(well_formed, r.texts)), r.titles, found) if r.titles else found
            for r, found in zip(requests, scored, strict=True)
        ]

    def _with_words(self, request: ScoreRequest, scored: list[Relevance]) -> list[Relevance]:
        excess = strangeness(self.encoder.reader, request.query) - KNOWN if self.lexical else 0.0
        if self.lexical is None or excess <= 0:
            return scored
        share = min(MOST_LEXICAL, LEXICAL_SLOPE * excess)
        both = zip(scored, self.lexical.score([request])[0], strict=True)
        mixed = [with_rows_of(ours, by_words, share) for ours, by_words in both]
        return [replace(relevance, weight=relevance.weight / (1 + share)) for relevance in mixed]

    def count_tokens(self, text: str) -> int:
        return self.encoder.reader.count(well_formed(text))

    def precompute(self, texts: Sequence[str], titles: Sequence[str] = ()) -> None:
        """Encode passages ahead of the questions about them; what fits ``cache_bytes`` is kept, the latest last."""
        room = self._window_tokens("")
        pieces = [
            (well_formed(title), well_formed(text)[cut.start : cut.end])
            for title, text in zip(titles or [""] * len(texts), texts, strict=True)
            for cut in self._cuts(well_formed(text), room)
        ]
        for at in range(0, len(pieces), 64):
            self._vectors(pieces[at : at + 64])

    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        queries = list(dict.fromkeys(window.query for window in windows))
        query_of = dict(zip(queries, self.encoder.query_vectors(queries), strict=True))
        passages = self._vectors([(window.title, window.text) for window in windows])
        return [_relevance(query_of[window.query], passage) for window, passage in zip(windows, passages, strict=True)]

    def _vectors(self, pieces: Sequence[_Piece]) -> list[TokenVectors]:
        found = {piece: self._passages.get(piece) for piece in pieces}
        missing = [piece for piece, vectors in found.items() if vectors is None]
        if missing:
            titles, texts = zip(*missing, strict=True)
            for piece, fresh in zip(missing, self.encoder.passage_vectors(texts, titles), strict=True):
                found[piece] = fresh
                self._passages.put(piece, fresh)
        return [vectors for piece in pieces if (vectors := found[piece]) is not None]

    def _fits(self, text: str, room: int) -> bool:
        # words are remembered, and budgets count them anyway
        return super()._fits(text, room) or self.encoder.reader.count(text) <= room

    def _token_offsets(self, text: str) -> NDArray[np.int64]:
        return self.encoder.reader.read([text])[0].offsets

    def _window_tokens(self, query: str) -> int:
        room = self.encoder.max_query_tokens - 2  # query and passage are encoded apart, between [CLS] and [SEP]
        if not self._fits(query, room):
            raise ValueError(
                f"the query takes {self.encoder.reader.count(query)} tokens, {self.name} reads {room}: shorten it"
            )
        return self.encoder.max_tokens - 2


def strangeness(reader: TokenReader, query: str) -> float:
    """How far a vocabulary is from knowing the words of a query, in [0, 1]: 0 when each is one token, 1 when each falls
    into letters or is unknown.
    """
    words = _WORD.findall(well_formed(query))
    found = [
        1.0 if reader.unknown in tokens.ids else min(1.0, (len(tokens.ids) - 1) / max(1, len(word) - 1))
        for word, tokens in zip(words, reader.read(words), strict=True)
    ]
    return float(np.mean(found or [0.0]))


def _relevance(query: QueryVectors, passage: TokenVectors) -> Relevance:
    cosines: NDArray[np.float32] = (query.vectors @ passage.vectors.T).numpy()  # [q, n]
    if not cosines.size:  # a query or passage without a single token of the vocabulary
        return Relevance(passage.offsets, np.zeros(len(passage.offsets), dtype=np.float32))
    weights: NDArray[np.float32] = query.weights.numpy()
    if query.pooled is None or query.shares is None or passage.pooled is None or passage.title is None:
        return Relevance(passage.offsets, cosines.max(axis=0), cosines * weights[:, None])  # as published
    of_matches, of_pooled = query.shares.tolist()
    total = 1 + of_matches + of_pooled
    best = cosines.max(axis=1)  # [q]
    if len(passage.title):
        best = np.maximum(best, (query.vectors @ passage.title.T).numpy().max(axis=1))
    whole = of_matches * float(best @ weights) + of_pooled * float(query.pooled @ passage.pooled)
    rows = cosines * (weights / np.float32(total))[:, None]
    constant = np.full((1, len(passage.offsets)), whole / total, dtype=np.float32)
    return Relevance(passage.offsets, cosines[0], np.concatenate([rows, constant]))


class _PassageCache:
    """The vectors of the passages used last, as many as fit; safe between threads."""

    def __init__(self, n_bytes: int) -> None:
        self._room = self._limit = n_bytes
        self._kept: OrderedDict[_Piece, TokenVectors] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, piece: _Piece) -> TokenVectors | None:
        with self._lock:
            if piece in self._kept:
                self._kept.move_to_end(piece)
            return self._kept.get(piece)

    def put(self, piece: _Piece, passage: TokenVectors) -> None:
        size = _n_bytes(piece, passage)
        with self._lock:
            if piece in self._kept or size > self._limit:
                return
            self._kept[piece] = passage
            self._room -= size
            while self._room < 0:
                self._room += _n_bytes(*self._kept.popitem(last=False))


def _n_bytes(piece: _Piece, passage: TokenVectors) -> int:
    arrays = sum(part.nbytes for part in passage if part is not None)
    return arrays + 4 * sum(map(len, piece)) + 512  # and what Python adds
