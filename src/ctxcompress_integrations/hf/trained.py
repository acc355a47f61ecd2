"""Token vectors of queries and passages from the trained ``mini`` model."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctxcompress_integrations.hf.encoder import SLACK, TokenVectors, tokenized
from ctxcompress_integrations.nn.late_interaction import LateInteraction, QueryVectors, mean_vector
from ctxcompress_integrations.nn.packed_encoder import pack

TITLE_TOKENS = 32
"""Tokens of a title that are read, before those of the text."""


class TrainedEncoder:
    """Token vectors of queries and passages from a :class:`LateInteraction` model.

    On a CPU only sequences of equal length share an attention product: bf16 gives bit for bit the same vectors whatever
    a text travels with. On a GPU lengths are rounded up to multiples of 16.

    Args:
        model: the trained model.
        tokenizer: of its base.
        card: what is known of the weights: recipe, data, thresholds.
        max_tokens: tokens of a text that are read, special tokens included, its title aside.
        batch_tokens: tokens per forward.
    """

    def __init__(
        self,
        model: LateInteraction,
        tokenizer: Any,
        *,
        card: Mapping[str, Any] | None = None,
        max_tokens: int = 256,
        batch_tokens: int = 8192,
    ) -> None:
        self.model, self.tokenizer, self.card = model, tokenizer, dict(card or {})
        self.max_tokens, self.batch_tokens = max_tokens, batch_tokens
        self.max_query_tokens = len(model.encoder.positions.weight)
        self._lock = threading.Lock()  # threads queue here instead of fighting for the cores

    def query_vectors(self, texts: Sequence[str]) -> list[QueryVectors]:
        """Vectors and weights of each query's tokens, special tokens included, on the CPU."""
        ids = tokenized(self.tokenizer, texts, self.max_query_tokens)["input_ids"]
        with torch.no_grad():
            found = [self.model.query_vectors(states) for states in self._states(ids)]
        return [QueryVectors(*(part.cpu() for part in q if part is not None)) for q in found]

    def passage_vectors(self, texts: Sequence[str], titles: Sequence[str]) -> list[TokenVectors]:
        """Unit vectors of each passage's tokens, of its title's, and of the whole.

        Args:
            texts: the caller cuts those longer than ``max_tokens``.
            titles: read before each text, cut at ``TITLE_TOKENS``; "" for none.
        """
        encoded = tokenized(self.tokenizer, texts, self.max_tokens + SLACK, return_offsets_mapping=True)
        is_text = [np.asarray(mask) == 0 for mask in encoded["special_tokens_mask"]]
        headings = title_ids(self.tokenizer, titles)
        firsts = [int(mask.argmax()) for mask in is_text]  # the title stands before the first token of the text
        ids = zip(encoded["input_ids"], headings, firsts, strict=True)
        sequences = [[*text[:first], *heading, *text[first:]] for text, heading, first in ids]
        found = []
        for i, states in enumerate(self._states(sequences)):
            offsets = np.asarray(encoded["offset_mapping"][i], dtype=np.int64).reshape(-1, 2)[is_text[i]]
            with torch.no_grad():
                vectors, pooled = self.model.passage_vectors(states).cpu(), mean_vector(states).cpu()
            before, title, rest = vectors.tensor_split([firsts[i], firsts[i] + len(headings[i])])
            of_text = torch.cat([before, rest])[torch.from_numpy(is_text[i])]
            found.append(TokenVectors(offsets, of_text, title.clone(), pooled))
        return found

    def _states(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Last hidden states ``[n, d]`` of each sequence."""
        device = self.model.query.weight.device
        states: list[Tensor] = []
        for batch in _batches(sequences, self.batch_tokens):
            lengths = [len(sequence) for sequence in batch]
            ids = torch.tensor([token for sequence in batch for token in sequence], dtype=torch.long, device=device)
            blocks = [block.to(device) for block in pack(lengths, step=1 if device.type == "cpu" else 16)]
            with self._lock, torch.no_grad():
                states += self.model.encoder(ids, blocks).split(lengths)
        return states


def title_ids(tokenizer: Any, titles: Sequence[str]) -> list[list[int]]:
    """Token ids of each title without special tokens, underscores read as spaces, at most ``TITLE_TOKENS``."""
    found: dict[str, list[int]] = {"": []}
    for title in titles:
        if title not in found:
            words = title.replace("_", " ")
            found[title] = list(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"])[:TITLE_TOKENS]
    return [found[title] for title in titles]


def _batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> list[list[Sequence[int]]]:
    batches: list[list[Sequence[int]]] = []
    n_tokens = batch_tokens
    for sequence in sequences:
        if n_tokens + len(sequence) > batch_tokens:
            batches.append([])
            n_tokens = 0
        batches[-1].append(sequence)
        n_tokens += len(sequence)
    return batches
