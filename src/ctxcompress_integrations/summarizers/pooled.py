"""Pooled states (the idea of ARC-Encoder, arXiv:2510.20535): the means of neighbouring hidden states, for any reader.

An encoder LM reads a passage; the hidden states after its last layer and norm are averaged in groups of ``ratio``
neighbours and mapped into the input space of a reader that stays frozen. Only the map (and, where a training wants it,
the encoder) learns: no adapter per corpus, vectors that know nothing of other passages. The paper pools queries inside
the last layer; the means of its outputs are the simpler relative. No published layout is read: ARC-Encoder's weights
belong to that other pooling.

An untrained map makes noise, so there is none by default: :meth:`Pooled.untrained` says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, Self

from torch import Tensor

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.hf import summary_weights
from ctxcompress_integrations.hf.borrow import as_base
from ctxcompress_integrations.hf.digest import tokenizer_digest, weights_digest
from ctxcompress_integrations.hf.hub import checkpoint_path
from ctxcompress_integrations.hf.load import load_decoder, load_tokenizer
from ctxcompress_integrations.hf.positions import context_length
from ctxcompress_integrations.hf.states import embed, last_states
from ctxcompress_integrations.nn.pooling import Projector, mean_groups
from ctxcompress_integrations.summarizers.base import Source, need, refuse
from ctxcompress_integrations.summarizers.pieces import Tokens, equal_cuts, full_cuts, tokens_of
from ctxcompress_integrations.summarizers.token_summarizer import Align, Piece, TokenSummarizer


class Pooled(TokenSummarizer[Projector]):
    """Means of neighbouring states of an encoder LM, projected into a reader.

    Args:
        model: the encoder, a decoder LM; may be the reader itself.
        tokenizer: the encoder's fast tokenizer.
        module: the map, from the encoder's width to the reader's.
        reader: digest of the reader's weights (:func:`~ctxcompress_integrations.hf.digest.weights_digest`).
        reader_tokenizer: of the reader; None when it is the encoder's.
        pool: neighbouring states per vector; the ratio.
        is_causal: False lets the encoder see the whole piece from every position, as ARC-Encoder's does.
        max_tokens: of one piece; None for what the encoder was trained on. Longer passages are cut into equal pieces.
        has_bos, ending, align, batch_tokens: as :class:`TokenSummarizer` says; a group is a segment, and BOS is pooled
            like any token.

    Raises:
        ValueError: a pool that is no whole number from 1 on or larger than a piece, or a map from another width.
    """

    name: ClassVar[str] = "pooled"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: Projector,
        *,
        reader: str,
        reader_tokenizer: Any = None,
        pool: int = 4,
        is_causal: bool = True,
        max_tokens: int | None = None,
        has_bos: bool = False,
        ending: str | None = None,
        align: Align = "tokens",
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(
            model, tokenizer, module, has_bos=has_bos, ending=ending, align=align, batch_tokens=batch_tokens
        )
        self.reader, self.pool, self.is_causal = reader, whole("pool", pool), is_causal
        self.reader_tokenizer = tokenizer if reader_tokenizer is None else reader_tokenizer
        self.max_tokens = context_length(model) if max_tokens is None else whole("max_tokens", max_tokens)
        if not isinstance(reader, str):
            raise ValueError(f"reader must be the digest of the reader's weights, got a {type(reader).__name__}")
        if self.pool > self.max_tokens // self._stretch:
            raise ValueError(
                f"pool must be in [1, {self.max_tokens // self._stretch}], "
                f"{'half ' * (align == 'sentences')}the longest piece, got {pool!r}"
            )
        widths = module.widths[0], model.get_input_embeddings().weight.shape[1]
        if widths[0] != widths[1]:
            raise ValueError(f"a map from width {widths[0]} cannot follow an encoder {widths[1]} wide")

    @classmethod
    def untrained(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        reader: Any,
        reader_tokenizer: Any = None,
        pool: int = 4,
        n_middle: int | None = None,
        is_causal: bool = True,
    ) -> Self:
        """A random map, for training; its vectors mean nothing.

        Args:
            model, tokenizer, reader_tokenizer, pool, is_causal: as for the class.
            reader: the reader itself; only its digest and its width are kept.
            n_middle: width between two maps; None for a single one.
        """
        table, target = model.get_input_embeddings().weight, reader.get_input_embeddings().weight
        module = Projector(table.shape[1], target.shape[1], n_middle).to(table.device)
        return cls(
            model,
            tokenizer,
            module,
            reader=weights_digest(reader),
            reader_tokenizer=reader_tokenizer,
            pool=pool,
            is_causal=is_causal,
        )

    @classmethod
    def load(cls, source: Source) -> Self:
        refuse(cls.name, prefix=source.prefix, ending=source.ending)
        need(cls.name, model=source.model, weights=source.weights)
        held = summary_weights.read(checkpoint_path(str(source.weights)), method=cls.name)
        if source.reader is None and held.bases.get("reader_tokenizer") != held.bases.get("tokenizer"):
            need(cls.name, reader=source.reader)
        encoder, tokenizer = load_decoder(str(source.model), device=source.device, dtype=source.dtype)
        counting = tokenizer if source.reader is None else load_tokenizer(source.reader)
        choices = {"reader": held.bases.get("reader"), "reader_tokenizer": counting}
        return cls.restored(held, encoder, tokenizer, choices)

    @cached_property
    def bases(self) -> dict[str, str]:
        return {
            "reader": self.reader,
            "reader_tokenizer": tokenizer_digest(self.reader_tokenizer),
            "model": weights_digest(self.model),
            "tokenizer": tokenizer_digest(self.tokenizer),
        }

    @property
    def sizes(self) -> dict[str, Any]:
        return {"widths": self.module.widths}

    @classmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> Projector:
        n_in, *middle, n_out = sizes["widths"]
        return Projector(n_in, n_out, *middle)

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"pool": self.pool, "is_causal": self.is_causal, "max_tokens": self.max_tokens}

    @property
    def ratio(self) -> float:
        return float(self.pool)

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        with as_base(self.model):
            words = embed(self.model, [list(chain.from_iterable(piece)) for piece in pieces])
            states = last_states(self.model, words, is_causal=self.is_causal)
        means = mean_groups(states, [list(map(len, piece)) for piece in pieces])
        return list(self.module(means).split(list(map(len, pieces))))

    def _reader_tokens(self, texts: Sequence[str], tokens: Sequence[Tokens]) -> list[int]:
        if self.reader_tokenizer is self.tokenizer:
            return super()._reader_tokens(texts, tokens)
        return [len(one.ids) for one in tokens_of(self.reader_tokenizer, texts)]

    def at_ratio(self, ratio: int) -> Self:
        return self.changed(pool=ratio)

    @property
    def _kept(self) -> dict[str, Any]:
        return super()._kept | {"reader": self.reader, "reader_tokenizer": self.reader_tokenizer}

    def _cut(self, n_tokens: int) -> list[list[int]]:
        room = self.max_tokens - (self._stretch - 1) * self.pool  # a piece grows by half a group at either end
        pieces = equal_cuts(n_tokens, room // self.pool * self.pool, multiple=self.pool)
        return [full_cuts(length, self.pool) for length in pieces]

    @property
    def n_per_segment(self) -> int:
        return 1

    def _width(self, piece: Piece) -> int:
        return sum(map(len, piece))
