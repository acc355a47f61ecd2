"""Log-likelihoods of tokens under a decoder LM: what Selective Context and LongLLMLingua are made of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.evaluation.baselines.base import batches
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.positions import context_length
from ctxcompress_integrations.hf.prompt import PromptTemplate
from ctxcompress_integrations.scorers.base import refuse
from ctxcompress_integrations.scorers.request import RequestScorer
from ctxcompress_integrations.text.segment import well_formed


class Tokens(NamedTuple):
    """Token ids of one text and their characters, int64 ``[n, 2]``."""

    ids: list[int]
    offsets: NDArray[np.int64]


class DecoderScorer(RequestScorer):
    """A scorer that asks a decoder LM how likely tokens are.

    Args:
        model: a decoder LM; used under ``no_grad``, never changed.
        tokenizer: its fast tokenizer. What every sequence starts with is its BOS, or its EOS where it has no BOS
            (Qwen), or nothing where it has neither.
        max_tokens: longest sequence; None for what the model was trained on.
        pads: whether sequences of different lengths share a forward; None: on a GPU.

    Raises:
        UnsupportedModelError: a slow tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int | None = None, pads: bool | None = None) -> None:
        if not tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer (use_fast=True)"
            )
        self.model, self.tokenizer = model, tokenizer
        self.max_tokens = context_length(model) if max_tokens is None else max_tokens
        if self.max_tokens < 4:
            raise ValueError(f"max_tokens must be >= 4, got {max_tokens!r}")
        is_cpu = model.get_input_embeddings().weight.device.type == "cpu"
        self.pads = not is_cpu if pads is None else pads
        self.batch_tokens = 1024 if is_cpu else 8192  # each token has a row of logits as wide as the vocabulary
        self._can_skip = "logits_to_keep" in signature(model.forward).parameters
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.prefix: list[int] = [] if start is None else [start]
        self._harmless = PromptTemplate.of(tokenizer, "{passage}{query}")  # a text's "</s>" is no end of sequence
        self._lock = threading.Lock()

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
        refuse(cls.name, layer=layer, weights=weights)
        if model is None:
            raise ValueError(f"{cls.name} needs a decoder LM: pass model='Qwen/Qwen2.5-0.5B' or another name or folder")
        return cls(*load_decoder(model, device=device, dtype=dtype))

    def count_tokens(self, text: str) -> int:
        return len(self._tokenize([text])[0].ids)

    def _tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        if not texts:
            return []
        encoded = self.tokenizer(
            [self._harmless.render(well_formed(text), "").text for text in texts],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        offsets = (np.asarray(o, dtype=np.int64).reshape(-1, 2) for o in encoded["offset_mapping"])
        return [Tokens(*pair) for pair in zip(encoded["input_ids"], offsets, strict=True)]

    @torch.no_grad()
    def _log_likelihoods(self, sequences: Sequence[list[int]], firsts: Sequence[int]) -> list[NDArray[np.float32]]:
        """Log p of the tokens from number ``firsts[i] >= 1`` on, given those before them, float32 ``[n - first]``.

        Padding is on the right and needs no mask: under causal attention no real token sees what follows it.
        """
        device = self.model.get_input_embeddings().weight.device
        found: dict[int, NDArray[np.float32]] = {}
        for batch in batches([len(s) for s in sequences], self.batch_tokens, pads=self.pads):
            rows = [torch.tensor(sequences[i], device=device) for i in batch]
            kept_from = min(firsts[i] for i in batch) - 1  # the LM head need not see what nobody asks for
            input_ids = pad_sequence(rows, batch_first=True)
            n_kept = input_ids.shape[1] - kept_from
            skipping = {"logits_to_keep": n_kept} if self._can_skip else {}
            with self._lock:
                logits = self.model(input_ids=input_ids, use_cache=False, **skipping).logits[:, -n_kept:]
            for i, row, ids in zip(batch, logits, rows, strict=True):
                predicting = row[firsts[i] - 1 - kept_from : len(ids) - 1 - kept_from]
                found[i] = -cross_entropy(predicting.float(), ids[firsts[i] :], reduction="none").cpu().numpy()
        return [found[i] for i in range(len(sequences))]
