"""mini: late interaction between the query's and the passage's token vectors of a small encoder.

Evidence of query token i in context token j is the cosine of their vectors, divided by the number of query tokens; a
sentence is worth the sum over query tokens of its best match (ColBERT's MaxSim, arXiv:2004.12832), so a unit's score is
a mean cosine in [-1, 1] whatever the length of the question. The score of one context token is its best cosine.

The encoder is all-MiniLM-L6-v2 as published. A head, two projections trained for the task, can be put on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.hf.load import MINI, load_encoder
from ctxcompress_integrations.hf.projection import ProjectionHead
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import PairScorer, Window, refuse


class Mini(PairScorer):
    """Late interaction with a small encoder.

    Args:
        encoder: token vectors of texts.
        head: trained projections of query and passage vectors; None to compare the encoder's own.
    """

    name: ClassVar[str] = "mini"
    overlap = 32
    batch_tokens = 16384

    def __init__(self, encoder: TextEncoder, *, head: ProjectionHead | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

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
        """As :meth:`Scorer.load`; ``weights`` is a safetensors file with a head made for this encoder."""
        refuse(cls.name, layer=layer)
        name = model or MINI
        encoder = TextEncoder(*load_encoder(name, device=device, dtype=dtype), name=name)
        return cls(encoder, head=None if weights is None else ProjectionHead.load(Path(weights), base=name))

    def count_tokens(self, text: str) -> int:
        return self.encoder.count_tokens(text)

    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        queries = list(dict.fromkeys(window.query for window in windows))
        n_queries = len(queries)
        encoded = self.encoder.token_vectors([*queries, *(window.text for window in windows)])
        vectors = [tokens.vectors for tokens in encoded]
        if self.head is not None:
            vectors = [self.head(v, is_query=i < n_queries) for i, v in enumerate(vectors)]
        query_of = {query: vectors[i] for i, query in enumerate(queries)}
        results = []
        for window, tokens, passage in zip(windows, encoded[n_queries:], vectors[n_queries:], strict=True):
            cosines: NDArray[np.float32] = (query_of[window.query] @ passage.T).numpy()  # [q, n]
            if not cosines.size:  # a query or passage without a single token of the vocabulary
                results.append(Relevance(tokens.offsets, np.zeros(len(tokens.offsets), dtype=np.float32)))
                continue
            results.append(Relevance(tokens.offsets, cosines.max(axis=0), cosines / np.float32(len(cosines))))
        return results

    def _token_offsets(self, text: str) -> NDArray[np.int64]:
        encoded = self.encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)

    def _window_tokens(self, query: str) -> int:
        return self.encoder.max_tokens - 2  # the passage is encoded apart from the query, between [CLS] and [SEP]
