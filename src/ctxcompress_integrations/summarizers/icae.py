"""ICAE (arXiv:2307.06945): a decoder LM wears a LoRA to write a passage into memory, and takes it off to read it.

A passage is cut into the fewest equal segments of at most ``m * ratio`` tokens; each is read as ``[segment; m memory
tokens]``, and the last hidden states at the memory tokens are its vectors. Segments know nothing of each other.

The published checkpoints, whose layout :mod:`~ctxcompress_integrations.hf.published.icae` describes: V1 on
Llama-2-7b-chat (rank 128, 512 tokens; here longer passages are cut as V2 does), V2 on Mistral-7B-Instruct-v0.2 (rank
512). Both have ``alpha = 32``, start a passage with BOS, and put the trained token <FT> between memory and question in
the fine-tuned form, <AE> in the pretrained one: ``ending="ft"`` closes each passage with it. Their codes extend the
vocabulary for the ids of these tokens, which here are vectors and need none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.hf import summary_weights
from ctxcompress_integrations.hf.borrow import as_base, base_of
from ctxcompress_integrations.hf.hub import checkpoint_path
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.positions import context_length
from ctxcompress_integrations.hf.published import icae as published
from ctxcompress_integrations.hf.states import embed, final_states
from ctxcompress_integrations.nn.low_rank import LowRank, linear_layers
from ctxcompress_integrations.summarizers.base import Source, need, refuse
from ctxcompress_integrations.summarizers.pieces import equal_cuts
from ctxcompress_integrations.summarizers.token_summarizer import Align, Piece, TokenSummarizer

DEFAULT_MODEL = "mistralai/Mistral-7B-Instruct-v0.2"
DEFAULT_WEIGHTS = "sggetao/icae/mistral_7b_ft_icae.safetensors"


class MemoryWriter(nn.Module):
    """What ICAE trains: memory tokens ``[m, d]``, the vectors ``[d]`` of its task tokens, and the adapter."""

    def __init__(self, memory: Tensor, endings: Mapping[str, Tensor], adapter: LowRank) -> None:
        super().__init__()
        self.memory = nn.Parameter(memory.detach().clone())
        self.endings = nn.ParameterDict(
            {name: nn.Parameter(vector.detach().clone()) for name, vector in endings.items()}
        )
        self.adapter = adapter


class Icae(TokenSummarizer[MemoryWriter]):
    """Memory slots of independent segments; reader and encoder are one model, the reader without the adapter.

    Args:
        model: a decoder LM.
        tokenizer: its fast tokenizer.
        module: what was trained.
        tokens_per_slot: ``ratio``; a segment has at most ``m`` times as many tokens.
        has_bos, ending, align, batch_tokens: as :class:`TokenSummarizer` says.

    Raises:
        ValueError: a ratio that is no whole number from 1 on, or segments that do not fit the model.
    """

    name: ClassVar[str] = "icae"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: MemoryWriter,
        *,
        tokens_per_slot: int = 4,
        has_bos: bool = True,
        ending: str | None = None,
        align: Align = "tokens",
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(
            model, tokenizer, module, has_bos=has_bos, ending=ending, align=align, batch_tokens=batch_tokens
        )
        self.n_memory, self.tokens_per_slot = len(module.memory), whole("tokens_per_slot", tokens_per_slot)
        longest = self.n_memory * self.tokens_per_slot * self._stretch
        if longest + self.n_memory > context_length(model):
            raise ValueError(
                f"{self.n_memory} memory tokens behind the longest segment (align={align!r}) must fit the "
                f"{context_length(model)} positions of the model, got tokens_per_slot={tokens_per_slot!r}"
            )

    @classmethod
    def untrained(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        n_memory: int = 128,
        tokens_per_slot: int = 4,
        rank: int = 128,
        alpha: float = published.ALPHA,
        layers: Sequence[str] = ("q_proj", "v_proj"),
        has_bos: bool = True,
    ) -> Self:
        """Random memory tokens and an adapter that does nothing yet, for training; their vectors mean nothing.

        Args:
            n_memory, tokens_per_slot: slots per segment, and tokens per slot.
            rank, alpha: of the adapter.
            layers: last names of the linear layers that it is worn on.
            has_bos: whether a passage starts with BOS.
        """
        n_memory = whole("n_memory", n_memory)
        table = model.get_input_embeddings().weight
        drawn = torch.randn(n_memory + 3, table.shape[1], device=table.device) * table.std().float()
        adapter = LowRank(linear_layers(base_of(model), set(layers)), rank=rank, alpha=alpha).to(table.device)
        memory, endings = drawn[:-3], dict(zip(("ae", "lm", "ft"), drawn[-3:], strict=True))
        module = MemoryWriter(memory, endings, adapter)
        return cls(model, tokenizer, module, tokens_per_slot=tokens_per_slot, has_bos=has_bos)

    @classmethod
    def load(cls, source: Source) -> Self:
        model, weights = source.model, source.weights
        refuse(cls.name, prefix=source.prefix, reader=source.reader)
        if model is None and weights is None:
            model, weights = DEFAULT_MODEL, DEFAULT_WEIGHTS
        need(cls.name, model=model, weights=weights)
        decoder, tokenizer = load_decoder(str(model), device=source.device, dtype=source.dtype)
        path = checkpoint_path(str(weights))
        if summary_weights.is_ours(path):
            held = summary_weights.read(path, method=cls.name)
            return cls.restored(held, decoder, tokenizer, {"ending": source.ending})
        module = MemoryWriter(*published.load(path, decoder)).to(decoder.get_input_embeddings().weight).eval()
        return cls(decoder, tokenizer, module, ending=source.ending)

    @property
    def sizes(self) -> dict[str, Any]:
        adapter = self.module.adapter
        shapes = {name: list(shape) for name, shape in adapter.shapes.items()}
        endings = sorted(self.module.endings)
        return {
            "n_memory": self.n_memory,
            "endings": endings,
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "shapes": shapes,
        }

    @classmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> MemoryWriter:
        width = model.get_input_embeddings().weight.shape[1]
        shapes = {name: (n_in, n_out) for name, (n_in, n_out) in sizes["shapes"].items()}
        return MemoryWriter(
            torch.zeros(sizes["n_memory"], width),
            {name: torch.zeros(width) for name in sizes["endings"]},
            LowRank(shapes, rank=sizes["rank"], alpha=sizes["alpha"]),
        )

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"tokens_per_slot": self.tokens_per_slot}

    @property
    def ratio(self) -> float:
        return float(self.tokens_per_slot)

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        with as_base(self.model), self.module.adapter.worn_by(base_of(self.model)):
            words = embed(self.model, [segment for (segment,) in pieces])
            return final_states(
                self.model, [torch.cat([row, self.module.memory.to(row)]) for row in words], self.n_memory
            )

    def at_ratio(self, ratio: int) -> Self:
        return self.changed(tokens_per_slot=ratio)

    def _cut(self, n_tokens: int) -> list[list[int]]:
        return [[length] for length in equal_cuts(n_tokens, self.n_memory * self.tokens_per_slot)]

    @property
    def n_per_segment(self) -> int:
        return self.n_memory

    def _width(self, piece: Piece) -> int:
        return len(piece[0]) + self.n_memory
