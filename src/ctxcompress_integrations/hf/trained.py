"""Token vectors of queries and passages from the trained ``mini`` model."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ctxcompress_integrations.hf.encoder import SLACK, TokenVectors
from ctxcompress_integrations.hf.token_reader import TokenReader, token_reader
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
        self.reader = token_reader(tokenizer)
        self._lock = threading.Lock()  # threads queue here instead of fighting for the cores

    def query_vectors(self, texts: Sequence[str]) -> list[QueryVectors]:
        """Vectors and weights of each query's tokens, special tokens included, on the CPU; queries are cut at
        ``max_query_tokens``.
        """
        states = self._states(self.reader.sequences(texts, self.max_query_tokens))
        with torch.no_grad():
            found = [self.model.query_vectors(of_query) for of_query in states]
        return [QueryVectors(*(part.cpu() for part in q if part is not None)) for q in found]

    def passage_vectors(self, texts: Sequence[str], titles: Sequence[str]) -> list[TokenVectors]:
        """Unit vectors of each passage's tokens, of its title's, and of the whole, on the CPU.

        Args:
            texts: the caller cuts those longer than ``max_tokens``.
            titles: read before each text, cut at ``TITLE_TOKENS``; "" for none.
        """
        read, headings = self.reader.read(texts, self.max_tokens + SLACK), title_ids(self.reader, titles)
        both = zip(headings, read, strict=True)
        states = self._states([self.reader.framed([*heading, *text.ids.tolist()]) for heading, text in both])
        inside = slice(len(self.reader.first), -len(self.reader.last) or None)
        with torch.no_grad():
            vectors = _on_cpu([self.model.passage_vectors(of_passage[inside]) for of_passage in states])
            pooled = _on_cpu([mean_vector(of_passage)[None] for of_passage in states])
        found = []
        for text, heading, of_tokens, whole in zip(read, headings, vectors, pooled, strict=True):
            of_title, of_text = torch.split(of_tokens, [len(heading), len(text.ids)])
            found.append(TokenVectors(text.offsets, of_text, of_title, whole[0]))
        return found

    def _states(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Last hidden states ``[n, d]`` of each sequence."""
        device = self.model.query.weight.device
        states: dict[int, Tensor] = {}
        for batch in _batches(sequences, self.batch_tokens):
            lengths = [len(sequences[i]) for i in batch]
            ids = torch.tensor([token for i in batch for token in sequences[i]], dtype=torch.long, device=device)
            blocks = [block.to(device) for block in pack(lengths, step=1 if device.type == "cpu" else 16)]
            with self._lock, torch.no_grad():
                states.update(zip(batch, self.model.encoder(ids, blocks).split(lengths), strict=True))
        return [states[i] for i in range(len(sequences))]


def title_ids(reader: TokenReader, titles: Sequence[str]) -> list[list[int]]:
    """Token ids of each title without special tokens, underscores read as spaces, at most ``TITLE_TOKENS``."""
    named = list(dict.fromkeys(titles))
    ids = [found.ids[:TITLE_TOKENS].tolist() for found in reader.read([title.replace("_", " ") for title in named])]
    of_title = dict(zip(named, ids, strict=True))
    return [of_title[title] for title in titles]


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same on the CPU."""
    is_there = all(tensor.device.type == "cpu" for tensor in tensors)
    return list(tensors) if is_there else _together(tensors)


def _together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on the CPU after one transfer, of ``[n, d]`` each."""
    return [part.clone() for part in torch.split(torch.cat(list(tensors)).cpu(), list(map(len, tensors)))]


def _batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> list[list[int]]:
    """Numbers of the sequences, by length: equal lengths lie side by side."""
    batches: list[list[int]] = []
    n_tokens = 0
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        if not batches or n_tokens + len(sequences[i]) > batch_tokens:
            batches.append([])
            n_tokens = 0
        batches[-1].append(i)
        n_tokens += len(sequences[i])
    return batches
