"""Weighted sums of word vectors: what a reader learns to read before any summarizer learns to write.

A reader that knows text looks values up word by word. Vectors that hold a sentence each are another language, and with
a summarizer from the start both sides have to invent it: the reader then learns to read the one place where the first
vectors stood. Sums of two, three ... neighbouring word vectors lead there in steps, and keep what was learned. Words
weigh by their smooth inverse frequency (SIF; Arora et al., A Simple but Tough-to-Beat Baseline for Sentence Embeddings,
ICLR 2017): names and values are what is asked for, and a plain sum drowns them in what every sentence says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ctxcompress_integrations.hf.borrow import as_base
from ctxcompress_integrations.hf.states import embed
from ctxcompress_integrations.summarizers.pieces import full_cuts, tokens_of
from ctxcompress_integrations.summarizers.token_summarizer import Align, Piece, TokenSummarizer

SMOOTHING = 1e-3
"""``a`` of the weights ``a / (a + p)``."""


class WordWeights(nn.Module):
    """Weights ``[v]`` of the words of a vocabulary; nothing is trained."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", weights)

    @classmethod
    def counted(cls, texts: Iterable[str], tokenizer: Any, n_words: int) -> Self:
        """Smooth inverse frequencies of the ``n_words`` words in some texts."""
        seen = Counter(chain.from_iterable(tokens.ids for tokens in tokens_of(tokenizer, list(texts))))
        shares = torch.tensor([seen[word] for word in range(n_words)], dtype=torch.float32) / max(1, seen.total())
        return cls(SMOOTHING / (SMOOTHING + shares))


class Superposed(TokenSummarizer[WordWeights]):
    """The weighted sum of a segment's word vectors over the length of its weights, about as long as one of them.

    Args:
        model, tokenizer: of the reader.
        module: weights of its words.
        segment_tokens: tokens per vector.
        align: as :class:`TokenSummarizer` says.
    """

    name: ClassVar[str] = "superposed"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: WordWeights,
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
            module,
            has_bos=has_bos,
            ending=ending,
            align=align,
            batch_tokens=batch_tokens,
        )
        self.segment_tokens = segment_tokens

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        with as_base(self.model):
            words = embed(self.model, [segment for (segment,) in pieces])
        table = self.module.weights
        weights = [table[torch.tensor(segment, device=table.device)].to(words[0]) for (segment,) in pieces]
        return [(w / w.norm())[None] @ rows for w, rows in zip(weights, words, strict=True)]

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
        return {"n_words": len(self.module.weights)}

    @classmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> WordWeights:
        return WordWeights(torch.zeros(sizes["n_words"]))
