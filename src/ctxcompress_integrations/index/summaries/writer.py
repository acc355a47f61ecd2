"""The writing half of the summary store: batches come in as shards of their own, damaged or unwanted ones go.

A batch becomes a shard because a safetensors file says at its beginning what it holds, and so cannot grow: the file is
durable first, then one SQLite transaction makes it count. A file that no transaction names is a dead writer's leftover;
the next writer sweeps it up. Knows no locks between changes: the owner lets one in at a time, while others read.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctxcompress_integrations.errors import IndexDamagedError, SummaryMismatchError
from ctxcompress_integrations.index.layout import Layout, sync_directory, writing
from ctxcompress_integrations.index.summaries import codecs, shards, tensorfile
from ctxcompress_integrations.index.summaries.block import Block, Summary
from ctxcompress_integrations.index.summaries.catalogue import Catalogue, Entry, Origin
from ctxcompress_integrations.index.summaries.checking import fault
from ctxcompress_integrations.index.summaries.codecs import Codec
from ctxcompress_integrations.index.summaries.store import SummaryStore
from ctxcompress_integrations.index.summaries.tensorfile import Written

_OURS = re.compile(r"(\d{6,})\.safetensors(\.tmp)?")


class SummaryWriter(SummaryStore):
    """A store that can be changed; each change is durable when its method returns."""

    def __init__(self, layout: Layout, index_id: str, *, is_read_only: bool) -> None:
        super().__init__(layout, index_id, is_read_only=is_read_only)
        self._is_swept = False

    def prepare(self, fingerprint: str, identity: Mapping[str, Any], codec: str | None) -> Origin:
        """Make room for a summarizer's rows.

        Args:
            codec: what all its rows are to have from now on; None for what they have, fp16 for a new one.

        Raises:
            SummaryMismatchError: another identity has this fingerprint.
            ValueError: the codec cannot take vectors of the width that is stored.
        """
        with self._lock:
            catalogue = self._writable()
            origin = catalogue.origin(fingerprint)
            if origin is not None and origin.identity != (given := json.dumps(identity, sort_keys=True)):
                raise SummaryMismatchError(
                    f"the fingerprint {fingerprint} stands for {origin.identity} in {self._layout.summaries}, but the "
                    f"summarizer is {given}: a summarizer that differs needs a fingerprint that differs"
                )
            if origin is not None and origin.width is not None and codec is not None:
                codecs.check_width(codec, origin.width)
            if origin is None or codec not in (None, origin.codec):
                catalogue.put_origin(fingerprint, identity, codec or "fp16")
            return self._origin(fingerprint)

    def commit(self, fingerprint: str, summaries: Sequence[Summary]) -> None:
        """Store rows, at least one; they are durable when this returns."""
        with self._lock:
            codec = self.codec_for(fingerprint, summaries[0].vectors.shape[1])
            origin = self._origin(fingerprint)._replace(width=codec.width)
        self._put(origin, codec.name, Block.coded(summaries, codec))

    def codec_for(self, fingerprint: str, width: int) -> Codec:
        """What the next rows are coded by: fp16 in place of pq while there is no codebook.

        Args:
            fingerprint: of their summarizer.
            width: of their vectors, in case they are the first.

        Raises:
            ValueError: the codec cannot take this width.
        """
        with self._lock:
            origin = self._origin(fingerprint)
            codecs.check_width(origin.codec, origin.width or width)
            origin = origin._replace(width=origin.width or width)
            return self._codec(self._codec_of_new(origin), origin)

    def repair(self, fingerprint: str) -> int:
        """Forget the shards that are damaged, with their rows, after reading every byte. Returns how many."""
        with self._lock:
            origin, catalogue = self._origin(fingerprint), self._writable()
            entries, codebook = catalogue.shards(origin), catalogue.codebook(origin)
        lost = [entry for entry in entries if self._is_faulty(entry, origin)]
        if codebook is not None and self._is_faulty(codebook, origin):
            lost = [codebook, *lost, *(entry for entry in entries if entry.codec == "pq" and entry not in lost)]
        self._remove(lost)
        return len(lost)

    def drop(self, fingerprint: str | None) -> None:
        """Delete the summaries of one summarizer, or of all of them, whatever state they are in."""
        with self._lock:
            try:
                catalogue = self._follow()
                for origin in [] if catalogue is None else catalogue.origins():
                    if catalogue is not None and fingerprint in (None, origin.fingerprint):
                        book = catalogue.codebook(origin)
                        self._remove([*catalogue.shards(origin), *([book] if book else [])], origin)
            except IndexDamagedError:
                if fingerprint is not None:
                    raise
                self._start_over()

    # -- below

    def _start_over(self) -> None:
        """Delete the folder with a damaged catalogue; by its new name, it is as good as gone in one step."""
        self._forget()
        with writing(self._layout.summaries):
            shutil.rmtree(self._layout.dropped, ignore_errors=True)
            self._layout.summaries.rename(self._layout.dropped)
            sync_directory(self._layout.root)
        shutil.rmtree(self._layout.dropped, ignore_errors=True)

    def _writable(self) -> Catalogue:
        """The catalogue, made where there is none; a dead writer's leftovers are swept up at its first use."""
        catalogue = self._follow()
        if catalogue is None:
            Catalogue.create(self._layout, self._index_id)
            catalogue = self._follow()
        assert catalogue is not None  # noqa: S101 - it was just made
        if not self._is_swept:
            self._sweep(catalogue)
            self._is_swept = True
        return catalogue

    def _sweep(self, catalogue: Catalogue) -> None:
        named = {self._layout.shard(entry.number) for entry in catalogue.entries()}
        shutil.rmtree(self._layout.dropped, ignore_errors=True)
        for path in self._layout.summaries.iterdir():
            if path in named or not _OURS.fullmatch(path.name):
                continue
            with suppress(OSError, IndexDamagedError):  # what is no shard of this index is not ours to delete
                if path.suffix == ".tmp" or tensorfile.read(path)[1].get("index_id") == self._index_id:
                    path.unlink()

    def _origin(self, fingerprint: str) -> Origin:
        origin = self._writable().origin(fingerprint)
        if origin is None:
            raise SummaryMismatchError(f"no summaries by {fingerprint} are in {self._layout.summaries}: build them")
        return origin

    def _codec_of_new(self, origin: Origin) -> str:
        is_untrained = origin.codec == "pq" and self._writable().codebook(origin) is None
        return "fp16" if is_untrained else origin.codec

    def _is_faulty(self, entry: Entry, origin: Origin) -> bool:
        with self._lock:
            rows = self._writable().rows_of(entry.number)
        return fault(self._layout.shard(entry.number), entry, self._label(entry, origin), rows) is not None

    def _put(self, origin: Origin, codec: str, block: Block, removed: Sequence[Entry] = ()) -> None:
        self._enter(origin, codec, lambda path, metadata: shards.write(path, block, metadata), block, removed)

    def _enter(
        self,
        origin: Origin,
        codec: str,
        write: Callable[[Path, Mapping[str, str]], Written],
        block: Block | None = None,
        removed: Sequence[Entry] = (),
    ) -> None:
        """A new file, then the transaction that names it in the place of others, then their end."""
        with self._lock:
            number = self._writable().next_number()
        entry = Entry(number, origin.number, codec, 0, "", 0, 0, 0.0)
        # Not unlinked when the transaction fails: whether it did can be uncertain. The next one writes over it.
        written = write(self._layout.shard(number), self._label(entry, origin))
        entry = entry._replace(size=written.size, sha256=written.sha256)
        if block is not None:
            entry = entry._replace(n_rows=len(block), n_vectors=block.n_vectors, relative_error=block.mean_error)
        with self._lock:
            keys = [] if block is None else block.keys()
            self._writable().put(entry, origin.width, keys, [old.number for old in removed])
            self._unlink(removed)

    def _remove(self, entries: Sequence[Entry], origin: Origin | None = None) -> None:
        with self._lock:
            self._writable().remove([entry.number for entry in entries], origin)
            self._unlink(entries)

    def _unlink(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._open.pop(entry.number, None)
            self._codebooks.pop(entry.number, None)
            with suppress(OSError):  # some systems keep a file that is mapped somewhere: swept up later
                self._layout.shard(entry.number).unlink()
