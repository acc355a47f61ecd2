"""The rung for methods whose model reads tokens: checks, duplicates and batches are here.

A method is one file: how it cuts a passage into segments (:meth:`~TokenSummarizer._cut`), each of which becomes as many
vectors as any other, and what becomes of them (:meth:`~TokenSummarizer.encode`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import SummaryValueError
from ctxcompress_integrations.hf.borrow import evaluating, lock_of
from ctxcompress_integrations.options import as_passages
from ctxcompress_integrations.records import Passage, SummaryVectors
from ctxcompress_integrations.summarizers.base import Progress
from ctxcompress_integrations.summarizers.pieces import Tokens, cut, gathered, tokens_of
from ctxcompress_integrations.summarizers.trained_summarizer import Trained, TrainedSummarizer

TokenIds: TypeAlias = Sequence[int]
Piece: TypeAlias = Sequence[TokenIds]
"""Segments that are read together."""
Align: TypeAlias = Literal["tokens", "sentences"]
Floats: TypeAlias = NDArray[np.float32]


class TokenSummarizer(TrainedSummarizer[Trained]):
    """A summarizer whose model reads the tokens of a passage, in pieces of segments; pieces know nothing of each other.

    Attributes:
        model, tokenizer, module: as :class:`TrainedSummarizer` says.
        has_bos: whether a passage starts with the tokenizer's BOS token.
        ending: name of a trained vector that closes each passage (:attr:`endings`); None for none.
        align: "tokens" cuts segments where the method's own code does. "sentences" makes as many, and moves each cut to
            the nearest end of a sentence within half a segment: a vector then holds whole sentences where it can.
        batch_tokens: positions of one forward, padding included.

    Raises:
        ValueError: a BOS token is asked for that the tokenizer lacks, an ending that was not trained, another
            ``align``, a budget that is no whole number from 1 on.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: Trained,
        *,
        has_bos: bool = False,
        ending: str | None = None,
        align: Align = "tokens",
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, module)
        self.has_bos, self.ending, self.align = has_bos, ending, align
        if batch_tokens is None:
            batch_tokens = 32768 if model.get_input_embeddings().weight.is_cuda else 4096
        self.batch_tokens = whole("batch_tokens", batch_tokens)
        if align not in get_args(Align):
            raise ValueError(f"align must be 'tokens' or 'sentences', got {align!r}")
        if has_bos and tokenizer.bos_token_id is None:
            raise ValueError("has_bos=True, but the tokenizer has no BOS token")
        if ending is not None and ending not in self.endings:
            known = ", ".join(map(repr, self.endings)) or "none"
            raise ValueError(f"ending must be None or one that was trained ({known}), got {ending!r}")

    @abstractmethod
    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Vectors ``[m, d]`` of each piece, in the model's dtype, with gradients where they are asked for.

        The BOS token, where there is one, is in the pieces; the ending is not in the vectors.
        """

    @abstractmethod
    def at_ratio(self, ratio: int) -> Self:
        """:meth:`changed` to another number of tokens per vector: what training tightens."""

    def written(self, texts: Sequence[str]) -> list[Tensor]:
        """Vectors ``[m, d]`` of each text in one forward, with gradients where they are asked for; for training.

        Raises:
            ValueError: a text without a token, or one that is too long.
        """
        pieces = [self._pieces(one, text[:40]) for one, text in zip(self._tokens(texts), texts, strict=True)]
        encoded = iter(self.encode([piece for of_text in pieces for piece in of_text]))
        return [torch.cat(list(islice(encoded, len(of_text)))) for of_text in pieces]

    @abstractmethod
    def _cut(self, n_tokens: int) -> list[list[int]]:
        """Lengths of the segments of each piece of a passage; ``ValueError`` when it is too long."""

    @property
    @abstractmethod
    def n_per_segment(self) -> int:
        """Vectors of one segment."""

    @abstractmethod
    def _width(self, piece: Piece) -> int:
        """Positions that one piece takes in the widest forward of :meth:`encode`."""

    @property
    def _stretch(self) -> int:
        """How many times as long a segment may become: a cut that moves takes less than half of both its sides."""
        return 2 if self.align == "sentences" else 1

    @property
    def config(self) -> dict[str, Any]:
        return {"has_bos": self.has_bos, "ending": self.ending, "align": self.align}

    @property
    def _kept(self) -> dict[str, Any]:
        return {"batch_tokens": self.batch_tokens}

    @property
    def endings(self) -> Mapping[str, Tensor]:
        """Trained vectors ``[d]`` that may stand between a passage and what follows it in the reader's prompt."""
        return getattr(self.module, "endings", {})

    def count_vectors(self, n_tokens: int) -> int:
        if n_tokens < 1:
            raise ValueError(f"a passage has at least 1 token, got {n_tokens!r}")
        return sum(map(len, self._cut(n_tokens + self.has_bos))) * self.n_per_segment + (self.ending is not None)

    def summarize(self, passages: Sequence[Passage | str], *, progress: Progress | None = None) -> list[SummaryVectors]:
        checked = as_passages(passages)
        if not checked:
            return []
        owners: dict[str, list[str]] = {}
        for passage in checked:
            if not passage.text.strip():
                raise ValueError(f"the passage {passage.id!r} has no text; leave it out")
            owners.setdefault(passage.text, []).append(passage.id)
        texts = list(owners)
        tokens = self._tokens(texts)
        pieces = [self._pieces(one, owners[text][0]) for text, one in zip(texts, tokens, strict=True)]
        found: dict[str, Floats] = {}
        done = 0
        for i, of_pieces in gathered(pieces, self._frozen, self._width, self.batch_tokens):
            found[texts[i]] = self._matrix(of_pieces, owners[texts[i]][0])
            done += len(owners[texts[i]])
            if progress is not None:
                progress(done, len(checked))
        n_tokens = dict(zip(texts, self._reader_tokens(texts, tokens), strict=True))
        fingerprint, reader = self.fingerprint, self.bases["reader"]
        return [
            SummaryVectors(
                passage.id,
                found[passage.text] if passage.id == owners[passage.text][0] else found[passage.text].copy(),
                fingerprint,
                reader,
                n_tokens[passage.text],
            )
            for passage in checked
        ]

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        return tokens_of(self.tokenizer, texts, sentences=self.align == "sentences")

    def _reader_tokens(self, texts: Sequence[str], tokens: Sequence[Tokens]) -> list[int]:
        """Tokens of each text in the reader's vocabulary; this summarizer's own is the reader's unless it says."""
        return [len(one.ids) for one in tokens]

    def _pieces(self, tokens: Tokens, passage: str) -> list[Piece]:
        if not tokens.ids:
            raise ValueError(f"the passage {passage!r} has no token in this vocabulary; leave it out")
        ids = [self.tokenizer.bos_token_id, *tokens.ids] if self.has_bos else tokens.ids
        try:
            lengths = self._cut(len(ids))
        except ValueError as error:
            raise ValueError(f"the passage {passage!r} is too long: {error}") from error
        ends = [self.has_bos + n for n in tokens.sentences] if self.align == "sentences" else None
        return cut(ids, lengths, ends)

    def _frozen(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """:meth:`encode` without gradients, in evaluation mode."""
        with lock_of(self.model), evaluating(self.model, self.module), torch.no_grad():
            return self.encode(pieces)

    def _matrix(self, of_pieces: Sequence[Tensor], passage: str) -> Floats:
        close = [] if self.ending is None else [self.endings[self.ending].detach().to(of_pieces[0])[None]]
        matrix: Floats = torch.cat([*of_pieces, *close]).float().cpu().numpy()
        if not np.isfinite(matrix).all():
            raise SummaryValueError(
                f"the summary of the passage {passage!r} has values that are not finite; use dtype='bfloat16' or "
                "'float32'"
            )
        return matrix
