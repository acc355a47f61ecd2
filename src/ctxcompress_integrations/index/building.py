"""What a summarizer is asked for and what it gave: identity, a check of every row, a bar that shows how far it is.

Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.errors import SummaryMismatchError, SummaryValueError
from ctxcompress_integrations.index.rows import text_sha256
from ctxcompress_integrations.index.summaries.block import Summary
from ctxcompress_integrations.index.summaries.codecs import Codec
from ctxcompress_integrations.records import Passage, SummaryVectors

CODECS = ("fp16", "int8", "pq")
Progress = Callable[[int, int], None]


class Summarizes(Protocol):
    """What ``build_summaries`` needs of a summarizer. Its model need not be loaded before ``summarize`` is called."""

    @property
    def fingerprint(self) -> str:
        """Of all that decides the values."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The same as plain JSON, with ``reader``, the digest of the reader's weights."""

    def summarize(self, passages: list[Passage], /) -> list[SummaryVectors]:
        """One matrix for each passage, in order."""


class Refused(NamedTuple):
    """A passage whose summary cannot be stored, and why."""

    id: str
    why: str


def identity_of(summarizer: Summarizes) -> tuple[str, dict[str, Any]]:
    """Fingerprint and identity.

    Raises:
        ValueError: the fingerprint is no text, or the identity names no reader.
    """
    fingerprint, identity = summarizer.fingerprint, dict(summarizer.identity)
    if not isinstance(fingerprint, str) or not fingerprint:
        raise ValueError(f"the fingerprint of a summarizer must be a non-empty str, got {fingerprint!r}")
    if not isinstance(identity.get("reader"), str):
        raise ValueError(f"summarizer.identity must name the digest of its reader's weights, got {identity!r:.200}")
    return fingerprint, identity


def check_codec(codec: str | None) -> None:
    """Refuse a codec that there is not."""
    if codec is not None and codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")


def checked(
    passages: Sequence[Passage], made: Sequence[SummaryVectors], *, fingerprint: str, reader: str
) -> list[tuple[Passage, NDArray[np.float32], int]]:
    """What a summarizer gave: passage, vectors ``[m, d]`` in memory, number of tokens.

    Raises:
        SummaryMismatchError: not one for each passage, in order, under its own fingerprint and reader.
    """
    if [summary.id for summary in made] != [passage.id for passage in passages]:
        raise SummaryMismatchError(
            f"the summarizer {fingerprint} gave summaries of {[s.id for s in made]!r:.200} where "
            f"{[p.id for p in passages]!r:.200} were asked for: it must give one for each passage, in order"
        )
    for summary in made:
        if (summary.fingerprint, summary.reader) != (fingerprint, reader):
            raise SummaryMismatchError(
                f"the summarizer {fingerprint} for the reader {reader} gave a summary of {summary.id!r} by "
                f"{summary.fingerprint} for {summary.reader}: nothing of it is stored"
            )
    return [(passage, _array(s.vectors), s.n_tokens) for passage, s in zip(passages, made, strict=True)]


def sorted_out(
    rows: Sequence[tuple[Passage, NDArray[np.float32], int]], codec: Codec
) -> tuple[list[Summary], list[Refused]]:
    """What can be stored, and what cannot: another width than the codec's, or values that it does not take."""
    kept, refused = [], []
    for passage, vectors, n_tokens in rows:
        why = codec.refusal(vectors)
        if why is None:
            kept.append(Summary(bytes.fromhex(text_sha256(passage.text)), vectors, n_tokens))
        else:
            refused.append(Refused(passage.id, why))
    return kept, refused


def raise_for(refused: Sequence[Refused]) -> None:
    """Name passages whose summaries were not stored.

    Raises:
        SummaryValueError: there are some.
    """
    if refused:
        named = "; ".join(f"{id_!r} has {why}" for id_, why in refused[:5])
        raise SummaryValueError(
            f"summaries of {len(refused)} passages cannot be stored: {named}{' ...' if len(refused) > 5 else ''}. The "
            "others are stored; mend the summarizer or leave these passages out, and build again"
        )


@contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress]:
    """A callable (done, all): the one given, a bar on standard error for True, or one that does nothing."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("summaries", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _array(vectors: Any) -> NDArray[np.float32]:
    if hasattr(vectors, "detach"):  # a torch tensor, on whatever device
        vectors = vectors.detach().float().cpu().numpy()
    return np.asarray(vectors, np.float32)
