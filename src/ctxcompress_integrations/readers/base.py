"""What every reader offers: one user turn, in parts of text and of summary vectors, becomes an answer.

Vectors travel as typed parts, never as magic text, so no document can smuggle one in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from ctxcompress_integrations.records import SummaryVectors

Part: TypeAlias = str | SummaryVectors


class Reader(ABC):
    """One user turn in, the answer out.

    Attributes:
        reads_vectors: whether parts may be :class:`SummaryVectors`; a text-only reader refuses them.
    """

    reads_vectors: bool = False

    @abstractmethod
    def generate_many(
        self, prompts: Sequence[Sequence[Part]], *, max_new_tokens: int = 128, stop: Sequence[str] = ()
    ) -> list[str]:
        """Answers, greedy, in order; an answer does not depend on what travels beside it. A stop text is left out."""

    @abstractmethod
    def stream(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> Iterator[str]:
        """Pieces of the answer as they come; joined they are what :meth:`generate` gives."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` in the reader's vocabulary, without special tokens."""

    def generate(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> str:
        """The answer to one user turn."""
        return self.generate_many([parts], max_new_tokens=max_new_tokens, stop=stop)[0]

    def positions(self, parts: Sequence[Part]) -> int:
        """Reader positions that the parts take: tokens of texts, vectors of summaries."""
        return sum(part.n_vectors if isinstance(part, SummaryVectors) else self.count_tokens(part) for part in parts)
