"""Texts -> vectors: one vector per token (late interaction) or one per text (retrieval), from one encoder.

On a CPU only texts of equal length share a batch: nothing is padded, so bf16 gives bit for bit the same vectors
whatever a text travels with. On a GPU batches are padded and run in fp32.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxcompress_integrations.hf.token_reader import token_reader
from ctxcompress_integrations.nn.late_interaction import QueryVectors

Floats = NDArray[np.float32]
SLACK = 16
"""Tokens by which a slice of a text, which can begin inside a word, may be longer than it was in its place."""


class TokenVectors(NamedTuple):
    """Token vectors of one text, special tokens left out; all of unit length, on the CPU."""

    offsets: NDArray[np.int64]  # [n, 2]
    vectors: Tensor  # float32 [n, p]
    title: Tensor | None = None  # float32 [t, p], of the title's tokens
    pooled: Tensor | None = None  # float32 [d], of the text with its title


class TextEncoder:
    """A sentence encoder with mean pooling, such as all-MiniLM-L6-v2 (the embedder "mini").

    Args:
        model: a bidirectional encoder; used under ``no_grad``, never changed.
        tokenizer: its fast tokenizer.
        name: identity that an index stores.
        max_tokens: tokens of a text that are read, special tokens included; all-MiniLM-L6-v2 was published with 256.
        batch_tokens: tokens per forward.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, max_tokens: int = 256, batch_tokens: int = 16384
    ) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.max_tokens, self.batch_tokens = max_tokens, batch_tokens
        self.reader = token_reader(tokenizer)
        self._lock = threading.Lock()  # threads queue here instead of fighting for the cores
        self._is_padding = next(model.parameters()).device.type != "cpu"

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """Unit vectors of the tokens of each text; texts longer than ``max_tokens`` are the caller's to cut."""
        read, before = self.reader.read(texts, self.max_tokens + SLACK), len(self.reader.first)
        found: dict[int, TokenVectors] = {}
        for indices, states in self._forward([self.reader.framed(text.ids.tolist()) for text in read]):
            unit = torch.nn.functional.normalize(states, dim=-1).cpu()
            for i, vectors in zip(indices, unit, strict=True):
                inside = slice(before, before + len(read[i].ids))
                found[i] = TokenVectors(read[i].offsets, vectors[inside].clone())
        return [found[i] for i in range(len(texts))]

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Unit vectors float32 ``[n, d]``: the mean over each text's token states, special tokens included."""
        sequences = self.reader.sequences(texts, self.max_tokens)
        vectors = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for indices, states in self._forward(sequences):
            lengths = torch.tensor([len(sequences[i]) for i in indices], device=states.device)
            is_real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
            mean = (states * is_real[..., None]).sum(dim=1) / lengths[:, None]
            vectors[indices] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return vectors

    def embed_query(self, text: str) -> Floats:
        """Unit vector float32 ``[d]``."""
        vector: Floats = self.embed_documents([text])[0]
        return vector

    embed_queries = embed_documents  # questions are embedded like texts

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``, without special tokens."""
        return self.reader.count(text)

    def _forward(self, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Last hidden states float32 ``[b, n, d]`` of batches, with the numbers of the sequences in them."""
        device = next(self.model.parameters()).device
        groups: dict[int, list[int]] = defaultdict(list)
        for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
            groups[0 if self._is_padding else len(sequences[i])].append(i)
        for group in groups.values():
            longest = max(len(sequences[i]) for i in group)
            step = max(1, self.batch_tokens // longest)
            for batch in (group[at : at + step] for at in range(0, len(group), step)):
                longest = len(sequences[batch[-1]])
                input_ids = torch.zeros((len(batch), longest), dtype=torch.long)
                for row, i in zip(input_ids, batch, strict=True):
                    row[: len(sequences[i])] = torch.tensor(sequences[i])
                mask = None
                if self._is_padding:
                    lengths = torch.tensor([len(sequences[i]) for i in batch])
                    mask = (torch.arange(longest) < lengths[:, None]).long().to(device)
                with self._lock, torch.no_grad():
                    output = self.model(input_ids=input_ids.to(device), attention_mask=mask)
                yield batch, output.last_hidden_state.float()


class UntrainedEncoder(TextEncoder):
    """An encoder as published, for late interaction: every query token counts alike."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        super().__init__(model, tokenizer, name=name)
        self.card: dict[str, Any] = {}
        self.max_query_tokens = self.max_tokens

    def query_vectors(self, texts: Sequence[str]) -> list[QueryVectors]:
        """Vectors of each query's tokens, special tokens left out, with equal weights."""
        found = [tokens.vectors for tokens in self.token_vectors(texts)]
        return [QueryVectors(vectors, torch.full((len(vectors),), 1 / max(1, len(vectors)))) for vectors in found]

    def passage_vectors(self, texts: Sequence[str], titles: Sequence[str]) -> list[TokenVectors]:
        """Vectors of each passage's tokens, special tokens left out; titles are not read."""
        return self.token_vectors(texts)


class SentenceEmbedder:
    """A sentence-transformers model as an embedder."""

    def __init__(self, model: Any, *, name: str) -> None:
        self.model, self.name = model, name

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Vectors float32 ``[n, d]``, with the model's own document prompt when it has one."""
        encode = getattr(self.model, "encode_document", self.model.encode)
        return np.asarray(encode(list(texts), convert_to_numpy=True, show_progress_bar=False), dtype=np.float32)

    def embed_query(self, text: str) -> Floats:
        """Vector float32 ``[d]``, with the model's own query prompt when it has one."""
        vector: Floats = self.embed_queries([text])[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Floats:
        """Vectors float32 ``[n, d]``, with the model's own query prompt when it has one."""
        encode = getattr(self.model, "encode_query", self.model.encode)
        return np.asarray(encode(list(texts), convert_to_numpy=True, show_progress_bar=False), dtype=np.float32)
