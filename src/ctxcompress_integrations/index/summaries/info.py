"""What there is of one summarizer, for people and for the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from json import loads
from typing import Any

from ctxcompress_integrations.index.manifest import Adapter
from ctxcompress_integrations.index.summaries.catalogue import Entry, Origin


@dataclass(frozen=True, slots=True)
class SummaryInfo:
    """What an index holds of one summarizer.

    Attributes:
        identity, reader: as the summarizer gave them.
        adapter: that reads the vectors; None for the reader as it is.
        codec: asked for. ``rows`` says which codec they have: those for pq wait in fp16 until there are enough to train
            the codebook on.
        width: ``d``; None before the first row.
        rows: number of rows by codec, each row one text.
        n_vectors, n_bytes: of all rows, and of their shards.
        relative_error: mean over the vectors of ||x - x'|| / ||x||, measured when they were coded; a row that was coded
            again from fp16 is compared with its fp16.
        n_missing: texts of the index, each counted once and blank ones not at all, that have no row.
        n_unused: rows whose text is no longer in the index; ``compact`` drops them.
    """

    fingerprint: str
    identity: Mapping[str, Any]
    reader: str
    adapter: Adapter | None
    codec: str
    width: int | None
    rows: Mapping[str, int]
    n_vectors: int
    n_bytes: int
    relative_error: float
    n_missing: int
    n_unused: int


def summary_info(
    origin: Origin, entries: Sequence[Entry], adapter: Adapter | None, live: Set[bytes], known: Set[bytes]
) -> SummaryInfo:
    """Sum up the shards of a summarizer.

    Args:
        origin: the summarizer.
        entries: its shards.
        adapter: that reads its vectors.
        live: hashes of the texts of the index.
        known: hashes of the texts that have a row.
    """
    rows: Counter[str] = Counter()
    for entry in entries:
        rows[entry.codec] += entry.n_rows
    n_vectors = sum(entry.n_vectors for entry in entries)
    off = sum(entry.relative_error * entry.n_vectors for entry in entries)
    return SummaryInfo(
        fingerprint=origin.fingerprint,
        identity=loads(origin.identity),
        reader=origin.reader,
        adapter=adapter,
        codec=origin.codec,
        width=origin.width,
        rows=dict(rows),
        n_vectors=n_vectors,
        n_bytes=sum(entry.size for entry in entries),
        relative_error=off / n_vectors if n_vectors else 0.0,
        n_missing=len(live - known),
        n_unused=len(known - live),
    )
