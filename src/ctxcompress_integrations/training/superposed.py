"""Sums of word vectors: what a reader learns to read before any summarizer learns to write.

A reader that knows text looks values up word by word. Vectors that hold a sentence each are another language, and with
a summarizer from the start both sides have to invent it: the reader then learns to read the one place where the first
vectors stood. Sums of two, three ... neighbouring word vectors lead there in steps, and keep what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ctxcompress_integrations.hf.borrow import as_base
from ctxcompress_integrations.hf.states import embed
from ctxcompress_integrations.summarizers.pieces import full_cuts
from ctxcompress_integrations.summarizers.token_summarizer import Align, Piece, TokenSummarizer


class Superposed(TokenSummarizer[nn.Module]):
    """The sum of a segment's word vectors over the root of their number, as long as one of them; nothing is trained.

    Args:
        model, tokenizer: of the reader.
        segment_tokens: tokens per vector.
        align: as :class:`TokenSummarizer` says.
    """

    name: ClassVar[str] = "superposed"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: nn.Module | None = None,
        *,
        segment_tokens: int,
        has_bos: bool = False,
        ending: str | None = None,
        align: Align = "sentences",
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(
            model,
            tokenizer,
            nn.Module() if module is None else module,
            has_bos=has_bos,
            ending=ending,
            align=align,
            batch_tokens=batch_tokens,
        )
        self.segment_tokens = segment_tokens

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        with as_base(self.model):
            words = embed(self.model, [segment for (segment,) in pieces])
        return [torch.sum(rows, 0, keepdim=True) / math.sqrt(len(rows)) for rows in words]

    def at_ratio(self, ratio: int) -> Self:
        return self.changed(segment_tokens=ratio)

    def _cut(self, n_tokens: int) -> list[list[int]]:
        return [[length] for length in full_cuts(n_tokens, self.segment_tokens)]

    @property
    def n_per_segment(self) -> int:
        return 1

    def _width(self, piece: Piece) -> int:
        return len(piece[0])

    @property
    def ratio(self) -> float:
        return float(self.segment_tokens)

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"segment_tokens": self.segment_tokens}

    @property
    def sizes(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> nn.Module:
        return nn.Module()
