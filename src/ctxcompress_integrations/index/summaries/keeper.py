"""The summary store as the index holds it: small shards are merged, rows coded again, dead rows left behind.

A hundred thousand small shards are no store: whenever the small ones come to ``TARGET_BYTES``, or to more than
``MAX_SMALL``, they are rewritten as one. Merging, coding again and compacting are one step: the new shard is durable,
one transaction names it in the place of the old ones, and these are removed; whoever has them mapped keeps them until
then.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence

import numpy as np

from ctxcompress_integrations.index.summaries import codecs, tensorfile
from ctxcompress_integrations.index.summaries.block import Block
from ctxcompress_integrations.index.summaries.catalogue import Entry, Origin
from ctxcompress_integrations.index.summaries.shards import CODEBOOK
from ctxcompress_integrations.index.summaries.writer import SummaryWriter

TARGET_BYTES = 256 << 20
MAX_SMALL = 64


class SummaryKeeper(SummaryWriter):
    """A store that keeps itself in order."""

    def settle(self, fingerprint: str) -> None:
        """Train the codebook as soon as it can be, code fp16 rows again where another codec is asked for, merge."""
        with self._lock:
            origin, catalogue = self._origin(fingerprint), self._writable()
            entries = catalogue.shards(origin)
            is_untrained = origin.codec == "pq" and catalogue.codebook(origin) is None
        if is_untrained:
            self._train(origin, [entry for entry in entries if entry.codec == "fp16"])
        small = _small(entries)
        is_time = len(small) > MAX_SMALL or sum(entry.size for entry in small) >= TARGET_BYTES
        self._rewrite(origin, [e for e in entries if self._is_outdated(origin, e) or (is_time and e in small)], None)

    def compact(self, live: Collection[bytes]) -> None:
        """Leave behind the rows of texts that are not ``live``, and merge; summaries that are absent stay absent."""
        with self._lock:
            shutil.rmtree(self._layout.dropped, ignore_errors=True)  # left by a drop that was cut short
            if self._follow() is None:
                return
            self._writable()
        for origin, entries in self.origins():
            chosen = [e for e in entries if e in _small(entries) or self._is_outdated(origin, e) or self._dead(e, live)]
            self._rewrite(origin, chosen, live)
        with self._lock:
            self._writable().vacuum()

    # -- below

    def _is_outdated(self, origin: Origin, entry: Entry) -> bool:
        """Whether the rows are to have another codec; only fp16 is exact enough to be coded again."""
        with self._lock:
            return entry.codec == "fp16" != self._codec_of_new(origin)

    def _dead(self, entry: Entry, live: Collection[bytes]) -> bool:
        with self._lock:
            return any(key not in live for key in self._writable().rows_of(entry.number).values())

    def _train(self, origin: Origin, entries: Sequence[Entry]) -> None:
        """Train the codebook on the first vectors, if there are enough of them."""
        if sum(entry.n_vectors for entry in entries) < codecs.TRAIN_FROM:
            return
        parts, n_vectors = [], 0
        for entry in entries:
            if n_vectors < codecs.TRAIN_UP_TO:
                with self._lock:
                    block = self._shard(entry.number).encoded_rows(self._writable().rows_of(entry.number))
                parts.append(block.payload["vectors"])
                n_vectors += block.n_vectors
        centroids = codecs.train(np.concatenate(parts))
        self._enter(
            origin,
            CODEBOOK,
            lambda path, metadata: tensorfile.write(path, {"centroids": centroids}, metadata),
        )

    def _rewrite(self, origin: Origin, entries: Sequence[Entry], live: Collection[bytes] | None) -> None:
        """Merge shards of one codec into shards of the target size; ``live`` None keeps all rows."""
        with self._lock:
            codec_of_new = self._codec_of_new(origin)
        by_codec: dict[str, list[Entry]] = {}
        for entry in entries:
            by_codec.setdefault(codec_of_new if entry.codec == "fp16" else entry.codec, []).append(entry)
        for codec, group in by_codec.items():
            part: list[Entry] = []
            for entry in group:
                part.append(entry)
                if sum(entry.size for entry in part) >= TARGET_BYTES or entry is group[-1]:
                    self._rewrite_as_one(origin, codec, part, live)
                    part = []

    def _rewrite_as_one(
        self, origin: Origin, codec: str, entries: Sequence[Entry], live: Collection[bytes] | None
    ) -> None:
        kept: list[dict[int, bytes]] = []
        for entry in entries:
            with self._lock:
                rows = self._writable().rows_of(entry.number)
            kept.append({i: key for i, key in rows.items() if live is None or key in live})
        if len(entries) == 1 and entries[0].codec == codec and len(kept[0]) == entries[0].n_rows:
            return
        blocks = [self._coded(origin, codec, e, rows) for e, rows in zip(entries, kept, strict=True) if rows]
        if blocks:
            self._put(origin, codec, Block.joined(blocks), entries)
        else:
            self._remove(entries)

    def _coded(self, origin: Origin, codec: str, entry: Entry, rows: dict[int, bytes]) -> Block:
        with self._lock:
            shard = self._shard(entry.number)
            if entry.codec == codec:
                return shard.encoded_rows(rows)
            return Block.coded([shard.row(i, key) for i, key in rows.items()], self._codec(codec, origin))


def _small(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.size < TARGET_BYTES]
