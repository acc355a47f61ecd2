"""QUITO-X: cross-attention of a T5 decoder's first position over the encoded passage (arXiv:2408.10497).

The encoder reads ``passage + " " + query``; the decoder gets its start token alone. Score of a context token: its
cross-attention weight in the chosen decoder layer, mean over heads. That row is all the cross-attention there is (one
query position), so nothing else has to be left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.attention import eager_attention
from ctxcompress_integrations.hf.load import load_seq2seq
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import PairScorer, Window, refuse

DEFAULT_MODEL = "google/flan-t5-small"


class QuitoX(PairScorer):
    """Cross-attention at decoder position 0.

    Args:
        model: a T5 or FLAN-T5 model; used under ``no_grad``, never changed.
        tokenizer: its fast tokenizer.
        layer: decoder layer; negative counts from the last. The paper takes the last.
        max_tokens: longest encoder input; T5 was trained on 512.
    """

    name: ClassVar[str] = "quito_x"
    sigma = 1.0

    def __init__(self, model: Any, tokenizer: Any, *, layer: int = -1, max_tokens: int = 512) -> None:
        super().__init__()
        if not model.config.is_encoder_decoder:
            raise UnsupportedModelError(
                f"quito_x needs an encoder-decoder model, got {type(model).__name__}: use 'quito'"
            )
        if not tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer"
            )
        n_layers = int(model.config.num_decoder_layers)
        if not -n_layers <= layer < n_layers:
            raise UnsupportedModelError(
                f"{type(model).__name__} has {n_layers} decoder layers, there is no layer {layer}"
            )
        self.model, self.tokenizer, self.layer, self.max_tokens = model, tokenizer, layer, max_tokens

    @classmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
    ) -> Self:
        refuse(cls.name, weights=weights)
        return cls(
            *load_seq2seq(model or DEFAULT_MODEL, device=device, dtype=dtype), layer=-1 if layer is None else layer
        )

    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        encoded = self.tokenizer(
            [f"{window.text} {window.query}" for window in windows],
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        groups: dict[int, list[int]] = defaultdict(list)  # the encoder looks both ways: equal lengths need no padding
        for i, ids in enumerate(encoded["input_ids"]):
            groups[len(ids)].append(i)
        results: dict[int, Relevance] = {}
        for group in groups.values():
            attention = self._cross_attention([encoded["input_ids"][i] for i in group])
            for i, row in zip(group, attention, strict=True):
                spans = np.asarray(encoded["offset_mapping"][i], dtype=np.int64)
                inside = (spans[:, 0] < len(windows[i].text)) & (spans[:, 1] > spans[:, 0])
                clipped = spans[inside].clip(0, len(windows[i].text))
                results[i] = Relevance(clipped, row[inside], weight=float(len(row)))
        return [results[i] for i in range(len(windows))]

    @torch.no_grad()
    def _cross_attention(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Float32 ``[b, n]`` for sequences of equal length."""
        device = self.model.get_input_embeddings().weight.device
        input_ids = torch.tensor(sequences, device=device)
        states = self.model.get_encoder()(input_ids=input_ids).last_hidden_state  # [b, n, d]
        start = torch.full((len(sequences), 1), self.model.config.decoder_start_token_id, device=device)
        with eager_attention(self.model):
            decoded = self.model.get_decoder()(
                input_ids=start, encoder_hidden_states=states, use_cache=False, output_attentions=True
            )
        rows: NDArray[np.float32] = decoded.cross_attentions[self.layer][:, :, 0].float().mean(dim=1).cpu().numpy()
        return rows

    def _token_offsets(self, text: str) -> NDArray[np.int64]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)

    def _window_tokens(self, query: str) -> int:
        room = self.max_tokens - self.count_tokens(query) - 8
        if room < 16:
            raise ValueError(
                f"the query takes {self.count_tokens(query)} of {self.max_tokens} tokens and leaves no room for a "
                "passage: shorten the query or raise max_tokens"
            )
        return room
