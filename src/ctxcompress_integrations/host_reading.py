"""What both hosts share when a reader answers from retrieved passages: a reader that loads once, and the decision which
passages travel as summary vectors.

Knows neither host. A retrieved passage says under ``metadata["ctxcompress"]["summary"]`` which summarizer's vectors an
index holds for it: the key travels through the host, the tensor never does.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakSet

from ctxcompress_integrations.allocation import Allocation, allocate, label
from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.host_figures import KEY, with_figures
from ctxcompress_integrations.index.building import Summarizes
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.loading import Shared
from ctxcompress_integrations.lookup import vectors_for
from ctxcompress_integrations.pruning import untouched
from ctxcompress_integrations.readers import load_reader
from ctxcompress_integrations.readers.base import Reader
from ctxcompress_integrations.records import CompressionResult, Passage, SummaryVectors, join_passages
from ctxcompress_integrations.room import pruned_within

SUMMARY = "summary"


class ReaderKey(NamedTuple):
    """What decides which reader is loaded; arguments as for :func:`~ctxcompress_integrations.load_reader`."""

    name: str
    device: str
    dtype: str
    adapters: tuple[tuple[str, str], ...]


_READERS: Shared[ReaderKey, Reader] = Shared()
_WARNED: WeakSet[Reader] = WeakSet()


def shared_reader(key: ReaderKey) -> Reader:
    """The reader, loaded on first use; components with the same key share it while one of them lives."""
    return _READERS.get(
        key, lambda: load_reader(key.name, device=key.device, dtype=key.dtype, adapters=dict(key.adapters))
    )


def with_summary_key(metadata: Mapping[str, Any], fingerprint: str | None) -> dict[str, Any]:
    """A copy of a found passage's metadata that says whose vectors the index holds for it; None for nobody's, whatever
    the passage says of itself.
    """
    if fingerprint is not None:
        return with_figures(metadata, {SUMMARY: fingerprint})
    ours = metadata.get(KEY)
    if not isinstance(ours, Mapping) or SUMMARY not in ours:
        return dict(metadata)
    left = {name: value for name, value in ours.items() if name != SUMMARY}
    return {name: value for name, value in metadata.items() if name != KEY} | ({KEY: left} if left else {})


def summary_key(metadata: Mapping[str, Any]) -> str | None:
    """The fingerprint that :func:`with_summary_key` put in; None when there is none."""
    ours = metadata.get(KEY)
    found = ours.get(SUMMARY) if isinstance(ours, Mapping) else None
    return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class Reading:
    """Decides in which form retrieved passages are read.

    Attributes:
        reader: what counts the positions; one that reads text only gets text.
        index: that holds the vectors.
        compressor: brings what ranks and prunes under a budget, and counts where the reader does not; else it is not
            called.
        budget: reader positions for all passages of a request; None for vectors wherever there are any, and whole texts
            elsewhere.
        on_miss: summarizer for passages with a key for which the index has no vectors.
    """

    reader: Reader
    index: CompressedIndex | None
    compressor: Callable[[], TextCompressor]
    budget: int | None
    on_miss: Summarizes | None = None

    def arrange(self, passages: Sequence[Passage], query: str) -> Allocation:
        """Each passage in its form, under its number in ``passages``, "0", "1", ...

        Args:
            passages: as they were retrieved, with the index's ids ("" where there is none); those whose metadata carry
                a summary's key may travel as vectors, the others travel as text.
            query: what the compressor prunes for.

        Raises:
            ValueError: a passage has the key of a summary, the reader reads vectors, and there is no index.
            SummaryMismatchError: the index holds summaries of other summarizers only.
        """
        _warn_once(self.reader, passages)
        summaries = _summaries(passages, self.reader, self.index, self.on_miss)
        numbered = _numbered(passages)
        can_count = self.budget is not None or self.reader.counts_tokens
        count_tokens = self.reader.count_tokens if can_count else self.compressor().scorer.count_tokens
        if self.budget is None:
            result = CompressionResult(query, untouched(numbered), 0, 0)
        else:
            compressor = self.compressor()

            def compress(room: int) -> CompressionResult:
                return compressor.compress(numbered, query, token_budget=room, count_tokens=count_tokens)

            result = pruned_within(self.budget, compress, numbered, summaries, count_tokens)
        return allocate(result, summaries, budget=self.budget, count_tokens=count_tokens)

    async def aarrange(self, passages: Sequence[Passage], query: str) -> Allocation:
        """:meth:`arrange` off the event loop; what is scored at the same time shares batches."""
        compressor = await asyncio.to_thread(self._needed_for, passages)
        if compressor is not None:
            await compressor.acompress(_numbered(passages), query, threshold=float("-inf"))
        return await asyncio.to_thread(self.arrange, passages, query)

    def _needed_for(self, passages: Sequence[Passage]) -> TextCompressor | None:
        """The compressor, when it has to score these passages and remembers the scores."""
        if self.budget is None:
            return None
        texts = [label(number, p.title) + p.text for number, p in enumerate(passages, start=1)]
        if self.reader.count_tokens(join_passages(texts)) <= self.budget:
            return None
        compressor = self.compressor()
        return compressor if compressor.remembers([p.text for p in passages]) else None


def _numbered(passages: Sequence[Passage]) -> list[Passage]:
    """Hosts repeat ids."""
    return [replace(passage, id=str(number)) for number, passage in enumerate(passages)]


def _summaries(
    passages: Sequence[Passage], reader: Reader, index: CompressedIndex | None, on_miss: Summarizes | None
) -> dict[str, SummaryVectors]:
    """The vectors that the reader can read, by the number of their passage."""
    keyed: dict[str, dict[str, Passage]] = {}  # fingerprint -> id in the index -> passage
    for passage in passages:
        key = summary_key(passage.metadata)
        if key is not None and passage.id and reader.reads_vectors:
            keyed.setdefault(key, {})[passage.id] = passage
    if keyed and index is None and on_miss is None:
        first = next(id_ for of_key in keyed.values() for id_ in of_key)
        raise ValueError(f"the passage {first!r} carries the key of a summary: give the index, index=")
    found = {
        (key, id_): vectors
        for key, of_key in keyed.items()
        for id_, vectors in vectors_for(
            list(of_key.values()), index, key, device=reader.device, on_miss=on_miss
        ).items()
    }
    return {
        str(number): found[place]
        for number, passage in enumerate(passages)
        if (place := (summary_key(passage.metadata) or "", passage.id)) in found
    }


def _warn_once(reader: Reader, passages: Sequence[Passage]) -> None:
    """Say to a reader of text alone, the first time, that summaries are there and stay unread."""
    if reader.reads_vectors or reader in _WARNED or all(summary_key(p.metadata) is None for p in passages):
        return
    _WARNED.add(reader)
    warnings.warn(
        f"{type(reader).__name__} reads text only: passages travel as text, their summaries stay unread",
        UserWarning,
        stacklevel=4,
    )
