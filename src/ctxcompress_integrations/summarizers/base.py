"""The ladder that summarizers stand on: passages in, one matrix of vectors for each, whatever travels beside it.

Knows no index and no reader. A method is one file that writes ``_summarize_batch``; lengths, batches, checks and the
fingerprint are here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ctxcompress_integrations.records import Passage, SummaryVectors

Progress = Callable[[int, int], None]


class Summarizer(ABC):
    """Passages -> :class:`SummaryVectors`, query-independent.

    Attributes:
        name: registry key.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that decides the values, as plain JSON: method, model, revision, digests of weights, adapter and
        tokenizer, configuration, and ``reader``, the digest of the reader's weights.
        """

    @property
    def fingerprint(self) -> str:
        """SHA-256 of :attr:`identity`, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    @abstractmethod
    def ratio(self) -> float:
        """Tokens per vector, for a passage that fills a segment."""

    @abstractmethod
    def count_vectors(self, n_tokens: int) -> int:
        """Vectors that a passage of so many tokens becomes."""

    @abstractmethod
    def summarize(self, passages: Sequence[Passage | str], *, progress: Progress | None = None) -> list[SummaryVectors]:
        """One :class:`SummaryVectors` per passage, same order: float32 arrays, the same whatever travels together.

        Raises:
            ValueError: an empty text, or one longer than the method can take.
            SummaryValueError: the model made values that are not finite.
        """
