"""The value objects that travel the road index -> retrieve -> score -> select -> assemble -> read.

Nothing here knows a model, a host framework or a file. Array shapes use the glossary of ``docs/shapes.md``:
``q`` query tokens, ``n`` context tokens, ``m`` summary vectors, ``d`` width of the reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PASSAGE_SEPARATOR = "\n\n"


class Span(NamedTuple):
    """Character offsets ``[start, end)`` into the original text of one passage."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrieved piece of text.

    Attributes:
        id: the caller's identifier, unique within one request and within one index.
        text: the text exactly as the caller stores it.
        score: similarity given by the retriever, larger is better; None when there was no retriever.
        metadata: JSON-like values that come back unchanged.
    """

    id: str
    text: str
    score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """``metadata["title"]``, empty when there is none."""
        return title_of(self.metadata)


def title_of(metadata: Mapping[str, Any]) -> str:
    """The title in a passage's metadata, in one line; empty when there is none."""
    title = metadata.get("title")
    return " ".join(title.split()) if isinstance(title, str) else ""


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """What a scorer says about one passage under one query.

    Attributes:
        offsets: int64 ``[n, 2]``, characters of each context token in the passage; ascending, may overlap
            (byte-level tokens that share one character).
        scores: float32 ``[n]``, finite: relevance of each token, by which phrases are chosen and the heat map is drawn.
        evidence: float32 ``[q, n]``, finite, or None: what each query token found in each context token. A sentence is
            worth the sum over query tokens of its best match; None means one row equal to ``scores`` (QUITO's single
            trigger token), for which the same rule is QUITO's maximum over the sentence.
        weight: factor that makes this passage's scores comparable with those of the other passages of the request.
    """

    offsets: NDArray[np.int64]
    scores: NDArray[np.float32]
    evidence: NDArray[np.float32] | None = None
    weight: float = 1.0

    @property
    def rows(self) -> NDArray[np.float32]:
        """float32 ``[q, n]``: ``evidence``, or ``scores`` as its single row."""
        return self.scores[None, :] if self.evidence is None else self.evidence


@dataclass(frozen=True, slots=True)
class CompressedPassage:
    """What is left of one passage.

    Attributes:
        id, score, metadata: those of the passage that went in.
        text: the slices ``original[start:end]`` of ``spans`` in document order; a removed gap leaves one space where
            the original had white space, or the joiner asked for.
        spans: character offsets of what was kept; empty when nothing was.
        original: the text that went in.
        relevance: the scorer's opinion, for the heat map; None when the compressor had nothing to decide.
        rerank_score: score of the passage's best sentence under the query, by which :meth:`CompressionResult.reranked`
            orders; None when the compressor had nothing to decide.
    """

    id: str
    text: str
    spans: tuple[Span, ...]
    score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    original: str = field(default="", repr=False)
    relevance: Relevance | None = field(default=None, repr=False, compare=False)
    rerank_score: float | None = field(default=None, compare=False)

    @property
    def title(self) -> str:
        """``metadata["title"]``, empty when there is none."""
        return title_of(self.metadata)

    @property
    def is_empty(self) -> bool:
        """True when nothing of the passage was kept."""
        return not self.text


@dataclass(frozen=True)
class CompressionResult:
    """The passages of one request after compression: one per input passage, same order, same ids.

    Attributes:
        n_tokens_in: tokens of the original passages joined by a blank line.
        n_tokens_out: tokens of ``text``; both counted with the same counter.
        seconds: wall-clock time of this request, scoring included.
        from_cache: True when no model ran because the scores of this request were still at hand.
    """

    query: str
    passages: list[CompressedPassage]
    n_tokens_in: int
    n_tokens_out: int
    seconds: float = 0.0
    from_cache: bool = False

    @cached_property
    def text(self) -> str:
        """What was kept of all passages, joined by a blank line; passages that kept nothing are left out."""
        return join_passages(p.text for p in self.passages)

    @property
    def keep_ratio(self) -> float:
        """Kept tokens / input tokens; 1.0 for an empty request."""
        return self.n_tokens_out / self.n_tokens_in if self.n_tokens_in else 1.0

    def reranked(self) -> list[CompressedPassage]:
        """The passages, those with the best sentence first: a reranking that costs no further pass.

        A request under its budget was not scored and keeps its order; ``threshold=float("-inf")`` scores it and cuts
        nothing.
        """
        return sorted(self.passages, key=lambda p: -p.rerank_score if p.rerank_score is not None else 0.0)

    def figures(self, passage: CompressedPassage) -> dict[str, Any]:
        """What the run did to one of its passages and to the request, as plain JSON values, for a host's metadata."""
        return {
            "spans": [list(span) for span in passage.spans],
            "n_chars_in": len(passage.original),
            "n_tokens_in": self.n_tokens_in,
            "n_tokens_out": self.n_tokens_out,
            "keep_ratio": self.keep_ratio,
            "seconds": self.seconds,
            "from_cache": self.from_cache,
        }

    def _repr_html_(self) -> str:
        from ctxcompress_integrations._heatmap import result_html

        return result_html(self)


def join_passages(texts: Iterable[str]) -> str:
    """Join passage texts the way a reader sees them: a blank line between, empty ones left out."""
    return PASSAGE_SEPARATOR.join(text for text in texts if text)


@dataclass(frozen=True, slots=True, eq=False)
class SummaryVectors:
    """One passage as a reader's input vectors, made ahead of time by a summarizer.

    Attributes:
        id: of the passage.
        vectors: ``[m, d]``, in the input space of the reader: a float16 or float32 numpy array, or a torch tensor on
            any device.
        fingerprint: of the summarizer that made them: model, weights, adapter, tokenizer, configuration.
        reader: digest of the weights of the reader that they are made for; any other would read noise.
        n_tokens: reader tokens of the text that they stand for.
        adapter: name of the LoRA adapter that learned to read them; None for the reader as it is.
        adapter_digest: of that adapter's weights; None when it is not known.
    """

    id: str
    vectors: Any = field(repr=False)
    fingerprint: str
    reader: str
    n_tokens: int
    adapter: str | None = None
    adapter_digest: str | None = None

    def __post_init__(self) -> None:
        if len(self.vectors.shape) != 2 or 0 in self.vectors.shape:
            raise ValueError(
                f"summary vectors are a matrix [m, d] with m, d >= 1, got the shape {tuple(self.vectors.shape)} "
                f"for the passage {self.id!r}"
            )

    @property
    def n_vectors(self) -> int:
        """``m``: the reader positions that they take."""
        return int(self.vectors.shape[0])

    @property
    def width(self) -> int:
        """``d``."""
        return int(self.vectors.shape[1])
