"""What every summarizer promises: passages in, one matrix of vectors for each, whatever travels beside it.

Knows no model. A method whose model reads tokens stands on the next rung,
:class:`~ctxcompress_integrations.summarizers.token_summarizer.TokenSummarizer`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from ctxcompress_integrations.records import Passage, SummaryVectors

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """From what a summarizer is loaded: the arguments of
    :func:`~ctxcompress_integrations.summarizers.load_summarizer`, which documents them.
    """

    model: str | None = None
    weights: str | Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    prefix: str | None = None
    ending: str | None = None
    reader: str | None = None


class Summarizer(ABC):
    """Passages -> :class:`SummaryVectors`, query-independent.

    Attributes:
        name: registry key.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that decides the values, as plain JSON: method, configuration, digests of weights, adapter, tokenizer
        and models, and ``reader``, the digest of the reader's weights.
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
        """One :class:`SummaryVectors` per passage, same order: float32 arrays.

        What travels together decides nothing but the last digits: about 1e-6 of the largest value in float32, and 1e-2
        in bfloat16, whose products round differently in batches of another shape.

        Args:
            passages: :class:`Passage` objects, or strings that get the ids "0", "1", ...; equal texts run once.
            progress: called with the number of passages done and of all, after each.

        Raises:
            ValueError: an empty text, or one longer than the method can take, before any model runs.
            SummaryValueError: the model made values that are not finite.
        """

    @classmethod
    def load(cls, source: Source) -> Self:
        """Make a summarizer from names.

        Raises:
            ValueError: for a field, not None, that this summarizer has no use for, or one that it lacks.
        """
        raise NotImplementedError(f"{cls.__name__} is built from objects, not from names")


def refuse(name: str, **arguments: object) -> None:
    """``ValueError`` naming the first argument that is not None: the summarizer ``name`` has no use for it."""
    for argument, value in arguments.items():
        if value is not None:
            raise ValueError(f"the summarizer {name!r} takes no {argument}, got {argument}={value!r}")


def need(name: str, **arguments: object) -> None:
    """``ValueError`` naming the first argument that is None: the summarizer ``name`` cannot do without it."""
    for argument, value in arguments.items():
        if value is None:
            raise ValueError(f"the summarizer {name!r} needs {argument}=..., a name or a path")
