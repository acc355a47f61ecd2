"""IC-Former (arXiv:2406.13618): a few cross-attention blocks read a passage's word vectors, in linear time.

The reader itself does not run: its input embeddings of the passage go through a
:class:`~ctxcompress_integrations.nn.digest.DigestEncoder`. Passages longer than 512 tokens are cut into the fewest
equal chunks, each of which becomes ``m`` digests. Cheap enough for question time, when a passage has no summary yet.

The published checkpoint ``wonderful9462/IC-Former`` (3 blocks, ``m = 128``, for Llama-2-7b) is read as
:mod:`~ctxcompress_integrations.hf.published.icformer` describes. Its pretraining (autoencoding) started a passage with
BOS and closed it with the trained token <AE>; its fine-tuning left BOS to the prompt and closed with <FT>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.hf import summary_weights
from ctxcompress_integrations.hf.borrow import as_base
from ctxcompress_integrations.hf.hub import checkpoint_path
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.published import icformer as published
from ctxcompress_integrations.hf.states import embed
from ctxcompress_integrations.nn.digest import DigestEncoder
from ctxcompress_integrations.summarizers.base import Source, need, refuse
from ctxcompress_integrations.summarizers.pieces import equal_cuts
from ctxcompress_integrations.summarizers.token_summarizer import Align, Piece, TokenSummarizer

DEFAULT_MODEL = "meta-llama/Llama-2-7b-hf"
DEFAULT_WEIGHTS = "wonderful9462/IC-Former"


class DigestWriter(nn.Module):
    """What IC-Former trains: its blocks and digests, and the vectors ``[d]`` of its task tokens."""

    def __init__(self, encoder: DigestEncoder, endings: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = encoder
        self.endings = nn.ParameterDict(
            {name: nn.Parameter(vector.detach().clone()) for name, vector in endings.items()}
        )


class IcFormer(TokenSummarizer[DigestWriter]):
    """Digests of equal chunks, from the reader's input embeddings alone.

    Args:
        model: the reader.
        tokenizer: its fast tokenizer.
        module: what was trained.
        chunk_tokens: of the longest chunk.
        has_bos, ending, align, batch_tokens: as :class:`TokenSummarizer` says.

    Raises:
        ValueError: chunks of no whole length from 1 on, or digests of another width than the reader's.
    """

    name: ClassVar[str] = "icformer"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        module: DigestWriter,
        *,
        chunk_tokens: int = 512,
        has_bos: bool = False,
        ending: str | None = None,
        align: Align = "tokens",
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(
            model, tokenizer, module, has_bos=has_bos, ending=ending, align=align, batch_tokens=batch_tokens
        )
        self.chunk_tokens, self.n_digests = whole("chunk_tokens", chunk_tokens), len(module.encoder.digests)
        widths = module.encoder.digests.shape[1], model.get_input_embeddings().weight.shape[1]
        if widths[0] != widths[1]:
            raise ValueError(f"digests {widths[0]} wide cannot be read by a reader whose input is {widths[1]} wide")

    @classmethod
    def untrained(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        n_digests: int = 128,
        chunk_tokens: int = 512,
        n_layers: int = 3,
        n_heads: int = 32,
        n_inner: int = 11008,
        has_bos: bool = False,
    ) -> Self:
        """Random blocks with digests and task tokens that start at zero, for training; their vectors mean nothing yet.

        Args:
            n_digests, chunk_tokens: digests per chunk, and tokens of the longest.
            n_layers, n_heads, n_inner: of the blocks.
            has_bos: whether a passage starts with BOS.
        """
        table = model.get_input_embeddings().weight
        sizes = {"n_digests": n_digests, "n_layers": n_layers, "n_heads": n_heads, "n_inner": n_inner}
        module = cls._empty(model, {"encoder": {"width": table.shape[1], **sizes}, "endings": ["ae", "ft"]})
        return cls(model, tokenizer, module.to(table.device), chunk_tokens=chunk_tokens, has_bos=has_bos)

    @classmethod
    def load(cls, source: Source) -> Self:
        model, weights = source.model, source.weights
        refuse(cls.name, prefix=source.prefix, reader=source.reader)
        if model is None and weights is None:
            model, weights = DEFAULT_MODEL, DEFAULT_WEIGHTS
        need(cls.name, model=model, weights=weights)
        decoder, tokenizer = load_decoder(str(model), device=source.device, dtype=source.dtype)
        path = checkpoint_path(str(weights))
        if not path.is_dir():
            held = summary_weights.read(path, method=cls.name)
            return cls.restored(held, decoder, tokenizer, {"ending": source.ending})
        encoder, endings = published.load(path)
        module = DigestWriter(encoder, endings).to(decoder.get_input_embeddings().weight).eval()
        return cls(decoder, tokenizer, module, has_bos="ft" not in endings, ending=source.ending)

    @property
    def sizes(self) -> dict[str, Any]:
        return {"encoder": self.module.encoder.sizes, "endings": sorted(self.module.endings)}

    @classmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> DigestWriter:
        encoder = DigestEncoder(**sizes["encoder"])
        return DigestWriter(encoder, {name: torch.zeros_like(encoder.digests[0]) for name in sizes["endings"]})

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"chunk_tokens": self.chunk_tokens}

    @property
    def ratio(self) -> float:
        return self.chunk_tokens / self.n_digests

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        with as_base(self.model):
            words = embed(self.model, [segment for (segment,) in pieces])
        lengths = [len(row) for row in words]
        context = pad_sequence(words, batch_first=True).to(self.module.encoder.digests)
        padded = None if min(lengths) == max(lengths) else torch.tensor(lengths, device=context.device)
        return list(self.module.encoder(context, padded).to(words[0].device))

    def at_ratio(self, ratio: int) -> Self:
        return self.changed(chunk_tokens=ratio * self.n_digests)

    def _cut(self, n_tokens: int) -> list[list[int]]:
        return [[length] for length in equal_cuts(n_tokens, self.chunk_tokens)]

    @property
    def n_per_segment(self) -> int:
        return self.n_digests

    def _width(self, piece: Piece) -> int:
        return len(piece[0]) + self.n_digests
