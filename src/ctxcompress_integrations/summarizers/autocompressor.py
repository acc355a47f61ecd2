"""AutoCompressors (arXiv:2305.14788), the encoder of LLoCO (arXiv:2404.07979): a decoder LM that writes summaries.

A document is read in segments of 1536 tokens. Each ends with 50 summary tokens, whose last hidden states are the
segment's summary vectors, and each begins with the summaries of all segments before it: the model sees
``[summaries so far; segment; summary tokens]`` at the positions 0, 1, 2 ... Accumulation stays within one passage. What
a segment's vectors mean then depends on the segments before: they are valid for the document and wrong for a chunk of
it. ``prefix="empty"`` reads every segment without a prefix, and each one's vectors stand on their own.

The published checkpoint ``princeton-nlp/AutoCompressor-Llama-2-7b-6k`` is a Llama with its LoRA merged, under Llama's
own names, and ``embed_summary.weight`` ``[50, 4096]``; its config adds ``summary_length`` and ``accumulate_summary``.
Its authors encode without a BOS token. Their code needs flash-attn; nothing in the weights does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.hf import summary_weights
from ctxcompress_integrations.hf.borrow import as_base
from ctxcompress_integrations.hf.device import resolve_device, resolve_dtype
from ctxcompress_integrations.hf.hub import checkpoint_path
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.positions import context_length
from ctxcompress_integrations.hf.published import autocompressor as published
from ctxcompress_integrations.hf.states import embed, final_states
from ctxcompress_integrations.summarizers.base import Source, refuse
from ctxcompress_integrations.summarizers.pieces import full_cuts
from ctxcompress_integrations.summarizers.token_summarizer import Align, Piece, TokenSummarizer

DEFAULT_MODEL = "princeton-nlp/AutoCompressor-Llama-2-7b-6k"
Prefix: TypeAlias = Literal["document", "empty"]


class SummaryTokens(nn.Module):
    """Embeddings ``[m, d]`` of the summary tokens."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens.detach().clone())


class AutoCompressor(TokenSummarizer[SummaryTokens]):
    """Accumulated summaries of segments; reader and encoder are one model.

    Args:
        model: the decoder LM that was trained for it.
        tokenizer: its fast tokenizer.
        module: the summary tokens.
        prefix: "document" accumulates over the segments of a passage, "empty" does not.
        segment_tokens: tokens per segment.
        max_positions: that one forward may take; None for what the model's config says. The 80 segments of LLoCO's
            longest documents take 5,536.
        has_bos, ending, align, batch_tokens: as :class:`TokenSummarizer` says; there are no endings.

    Raises:
        ValueError: another prefix, a length that is no whole number from 1 on, or segments that do not fit the model.
    """

    name: ClassVar[str] = "autocompressor"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: SummaryTokens,
        *,
        prefix: Prefix = "document",
        segment_tokens: int = 1536,
        max_positions: int | None = None,
        has_bos: bool = False,
        ending: str | None = None,
        align: Align = "tokens",
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(
            model, tokenizer, module, has_bos=has_bos, ending=ending, align=align, batch_tokens=batch_tokens
        )
        self.max_positions = context_length(model) if max_positions is None else whole("max_positions", max_positions)
        self.segment_tokens = whole("segment_tokens", segment_tokens)
        self.prefix, self.n_summary = prefix, len(module.tokens)
        if prefix not in get_args(Prefix):
            raise ValueError(f"prefix must be 'document' or 'empty', got {prefix!r}")
        room = (self.max_positions - self.n_summary) // self._stretch
        if self.segment_tokens > room:
            raise ValueError(
                f"segment_tokens must be in [1, {room}], for align={align!r} and a model of "
                f"{self.max_positions} positions and {self.n_summary} summary tokens, got {segment_tokens!r}"
            )

    @classmethod
    def untrained(cls, model: Any, tokenizer: Any, *, n_summary: int = 50, segment_tokens: int = 1536) -> Self:
        """Summary tokens that start as the end-of-sequence token, for training; their vectors mean nothing yet."""
        eos = model.get_input_embeddings().weight[tokenizer.eos_token_id]
        tokens = SummaryTokens(eos.expand(whole("n_summary", n_summary), -1))
        return cls(model, tokenizer, tokens, segment_tokens=segment_tokens)

    @classmethod
    def load(cls, source: Source) -> Self:
        refuse(cls.name, ending=source.ending, reader=source.reader)
        name = DEFAULT_MODEL if source.model is None else source.model
        if source.weights is None:
            target = resolve_device(source.device)
            llama, tokenizer, tokens = published.load(
                checkpoint_path(name), device=target, dtype=resolve_dtype(source.dtype, target)
            )
            module = SummaryTokens(tokens).to(llama.get_input_embeddings().weight)
            return cls(llama, tokenizer, module, prefix=cast(Prefix, source.prefix or "document"))
        held = summary_weights.read(checkpoint_path(source.weights), method=cls.name)
        return cls.restored(
            held, *load_decoder(name, device=source.device, dtype=source.dtype), {"prefix": source.prefix}
        )

    @property
    def sizes(self) -> dict[str, Any]:
        return {"n_summary": self.n_summary}

    @classmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> SummaryTokens:
        return SummaryTokens(torch.zeros(sizes["n_summary"], model.get_input_embeddings().weight.shape[1]))

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"prefix": self.prefix, "segment_tokens": self.segment_tokens}

    @property
    def ratio(self) -> float:
        return self.segment_tokens / self.n_summary

    @property
    def max_segments(self) -> int:
        """Segments of the longest passage under ``prefix="document"``: the last one has to fit behind its prefix."""
        return (self.max_positions - self._stretch * self.segment_tokens) // self.n_summary

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        tokens = self.module.tokens
        summaries: list[list[Tensor]] = [[] for _ in pieces]
        with as_base(self.model):
            for turn in range(max(map(len, pieces))):
                here = [i for i, piece in enumerate(pieces) if turn < len(piece)]
                words = embed(self.model, [pieces[i][turn] for i in here])
                rows = [torch.cat([*summaries[i], row, tokens.to(row)]) for i, row in zip(here, words, strict=True)]
                for i, vectors in zip(here, final_states(self.model, rows, self.n_summary), strict=True):
                    summaries[i].append(vectors)
        return [torch.cat(of_piece) for of_piece in summaries]

    def at_ratio(self, ratio: int) -> Self:
        return self.changed(segment_tokens=ratio * self.n_summary)

    @property
    def _kept(self) -> dict[str, Any]:
        return super()._kept | {"max_positions": self.max_positions}

    def _cut(self, n_tokens: int) -> list[list[int]]:
        lengths = full_cuts(n_tokens, self.segment_tokens)
        if self.prefix == "empty":
            return [[length] for length in lengths]
        if len(lengths) > self.max_segments:
            raise ValueError(
                f"{n_tokens} tokens are {len(lengths)} segments, and the summaries of {self.max_segments} fill the "
                f"{self.max_positions} positions of the model; take prefix='empty', cut the document, or raise "
                "max_positions if the model reads farther"
            )
        return [lengths]

    @property
    def n_per_segment(self) -> int:
        return self.n_summary

    def _width(self, piece: Piece) -> int:
        return max(map(len, piece)) + len(piece) * self.n_summary
