"""The reading half of the summary store: rows by (text hash, fingerprint), from mapped shards or from a cache.

Knows no ids and no passages. Threads may share it. A writer elsewhere may replace shards at any time: a shard that is
gone because the catalogue has moved on is looked up again; one that is gone although the catalogue names it is damage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any, TypeVar

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import IndexDirectoryError, IndexLockedError, SummaryMismatchError
from ctxcompress_integrations.index.layout import Layout, damaged
from ctxcompress_integrations.index.summaries import shards
from ctxcompress_integrations.index.summaries.block import Summary
from ctxcompress_integrations.index.summaries.cache import ByteLRU, check_device, to_device
from ctxcompress_integrations.index.summaries.catalogue import Catalogue, Entry, Origin, Place, inode_of
from ctxcompress_integrations.index.summaries.codecs import Codec, Half, Int8, ProductQuantiser
from ctxcompress_integrations.index.summaries.shards import Shard

HOST_BYTES = 256 << 20  # decoded int8 and pq rows; fp16 rows are views of the mapped file and need no cache
DEVICE_BYTES = 1 << 30
_MAX_OPEN = 128  # Python keeps a file descriptor for each mapping
_ATTEMPTS = 20
T = TypeVar("T")


class _GoneError(Exception):
    """A shard was replaced between two looks at the catalogue."""


class SummaryStore:
    """The summaries of one index directory; absent until a writer makes them.

    Attributes:
        host: decoded rows.
        device: tensors on devices.
    """

    def __init__(self, layout: Layout, index_id: str, *, is_read_only: bool) -> None:
        self._layout, self._index_id, self._is_read_only = layout, index_id, is_read_only
        self._lock = RLock()
        self._catalogue: Catalogue | None = None
        self._inode: int | None = None
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._codebooks: dict[int, ProductQuantiser] = {}
        self.host: ByteLRU[Summary] = ByteLRU(HOST_BYTES)
        self.device: ByteLRU[Summary] = ByteLRU(DEVICE_BYTES)

    def read(self, fingerprint: str, keys: Sequence[bytes], device: Any = None) -> tuple[str, dict[bytes, Summary]]:
        """The digest of their reader, and the rows of texts by the hash of the text; those without a row are left out.

        Args:
            device: where torch tensors are wanted in place of arrays.

        Raises:
            SummaryMismatchError: there are summaries, but none with this fingerprint.
            IndexDamagedError: a file is missing, cut short, changed or another one.
        """
        where = None if device is None else check_device(device)

        def rows() -> tuple[str, dict[bytes, Summary]]:
            reader, places = self._places(fingerprint, keys)
            if where is None:
                return reader, {key: self._row(place, key) for key, place in places.items()}
            return reader, self._rows_on(where, places)

        return self._steadily(rows)

    def known(self, fingerprint: str) -> set[bytes]:
        """Hashes of all texts that have a row."""

        def keys() -> set[bytes]:
            catalogue = self._follow()
            origin = None if catalogue is None else catalogue.origin(fingerprint)
            return set() if catalogue is None or origin is None else catalogue.keys(origin)

        return self._steadily(keys)

    def origins(self) -> list[tuple[Origin, list[Entry]]]:
        """All summarizers with their shards."""

        def origins() -> list[tuple[Origin, list[Entry]]]:
            catalogue = self._follow()
            return [] if catalogue is None else [(origin, catalogue.shards(origin)) for origin in catalogue.origins()]

        return self._steadily(origins)

    def limit_caches(self, *, host_bytes: int | None = None, device_bytes: int | None = None) -> None:
        """Set how much the caches may hold; None leaves a limit as it is."""
        for name, cache, limit in (("host_bytes", self.host, host_bytes), ("device_bytes", self.device, device_bytes)):
            if limit is None:
                continue
            n_bytes = whole(name, limit, least=0)
            with self._lock:
                cache.shrink(n_bytes)

    def close(self) -> None:
        """Let go of the files; arrays that were handed out stay valid."""
        with self._lock:
            self._forget()

    # -- below

    def _steadily(self, look: Callable[[], T]) -> T:
        """What ``look`` finds, looking again when a writer changes the files under its eyes."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                inode = inode_of(self._layout.catalogue)
                try:
                    return look()
                except _GoneError:
                    continue
                except (FileNotFoundError, IndexDirectoryError):
                    if inode == inode_of(self._layout.catalogue):
                        raise  # else a writer started over
        raise IndexLockedError(f"{self._layout.summaries} is being rewritten all the time: try again later")

    def _follow(self) -> Catalogue | None:
        """The catalogue that is there now: all summaries may have been dropped, and others begun."""
        inode = inode_of(self._layout.catalogue)
        if inode is None and any(self._layout.summaries.glob("*.safetensors")):
            raise damaged(self._layout.catalogue, "is missing")
        if inode != self._inode:
            self._forget()
            if inode is not None:
                self._catalogue = Catalogue(self._layout, self._index_id, is_read_only=self._is_read_only)
                self._inode = inode
        return self._catalogue

    def _forget(self) -> None:
        catalogue, self._catalogue, self._inode = self._catalogue, None, None
        self._open.clear()
        self._codebooks.clear()
        self.host.clear()
        self.device.clear()
        if catalogue is not None:
            catalogue.close()

    def _places(self, fingerprint: str, keys: Sequence[bytes]) -> tuple[str, dict[bytes, Place]]:
        catalogue = self._follow()
        if catalogue is None or not (stored := catalogue.origins()):
            return "", {}
        origin = next((o for o in stored if o.fingerprint == fingerprint), None)  # a second query might see other rows
        if origin is None:
            names = ", ".join(origin.fingerprint for origin in stored)
            raise SummaryMismatchError(
                f"{self._layout.summaries} holds summaries made by {names}, not by {fingerprint}: ask with the "
                "summarizer that made them, or run index.build_summaries with this one"
            )
        return origin.reader, catalogue.places(origin, keys)

    def _row(self, place: Place, key: bytes) -> Summary:
        if (cached := self.host.get(place)) is not None:
            return cached
        shard = self._shard(place.shard)
        row = shard.row(place.position, key)
        if not isinstance(shard.codec, Half):
            row.vectors.flags.writeable = False  # it is handed out more than once
            self.host.put(place, row, row.vectors.nbytes)
        return row

    def _rows_on(self, device: Any, places: dict[bytes, Place]) -> dict[bytes, Summary]:
        found = {key: self.device.get((device, place)) for key, place in places.items()}
        missing = {key: self._row(places[key], key) for key, summary in found.items() if summary is None}
        for dtype in {summary.vectors.dtype for summary in missing.values()}:
            part = {key: summary for key, summary in missing.items() if summary.vectors.dtype == dtype}
            tensors = to_device([summary.vectors for summary in part.values()], device)
            for (key, summary), tensor in zip(part.items(), tensors, strict=True):
                found[key] = moved = summary._replace(vectors=tensor)
                self.device.put((device, places[key]), moved, summary.vectors.nbytes)
        return {key: summary for key, summary in found.items() if summary is not None}

    def _shard(self, number: int) -> Shard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        entry, origin = self._entry(number)
        try:
            shard = Shard(
                self._layout.shard(number), entry.size, self._label(entry, origin), self._codec(entry.codec, origin)
            )
        except FileNotFoundError as error:
            raise self._missing(number) from error
        self._open[number] = shard
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return shard

    def _entry(self, number: int) -> tuple[Entry, Origin]:
        catalogue = self._follow()
        entry = None if catalogue is None else catalogue.entry(number)
        if catalogue is None or entry is None:
            raise _GoneError
        origin = next((o for o in catalogue.origins() if o.number == entry.summarizer), None)
        if origin is None:
            raise _GoneError
        return entry, origin

    def _missing(self, number: int) -> Exception:
        self._entry(number)  # raises where the catalogue, too, has forgotten it
        return damaged(self._layout.shard(number), "is missing")

    def _label(self, entry: Entry, origin: Origin) -> dict[str, str]:
        return shards.label(
            index_id=self._index_id, number=entry.number, fingerprint=origin.fingerprint, codec=entry.codec
        )

    def _codec(self, name: str, origin: Origin) -> Codec:
        if name in ("fp16", "int8"):
            width = origin.width or 0  # there are rows, so it is known
            return Half(width) if name == "fp16" else Int8(width)
        catalogue = self._follow()
        entry = None if catalogue is None else catalogue.codebook(origin)
        if entry is None:
            raise _GoneError
        if entry.number not in self._codebooks:
            path = self._layout.shard(entry.number)
            try:
                centroids = shards.read_centroids(path, entry.size, self._label(entry, origin))
                self._codebooks[entry.number] = ProductQuantiser(centroids)
            except FileNotFoundError as error:
                raise self._missing(entry.number) from error
            except ValueError as error:
                raise damaged(path, f"is no codebook ({error})") from error
        return self._codebooks[entry.number]
