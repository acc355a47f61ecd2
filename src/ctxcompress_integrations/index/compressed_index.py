"""``CompressedIndex``: passages that can be found by meaning, kept in one directory that survives being killed.

Knows no host framework and no model. A change is one SQLite transaction; vectors in memory, this handle's own and those
of readers elsewhere, follow SQLite's change log, so there is one way for a change to arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from typing import Self

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import IndexReadOnlyError
from ctxcompress_integrations.index import directory, snapshots
from ctxcompress_integrations.index.building import Progress
from ctxcompress_integrations.index.embedding import given_rows, given_vectors, identify, resolve
from ctxcompress_integrations.index.layout import Layout
from ctxcompress_integrations.index.manifest import Manifest
from ctxcompress_integrations.index.reading import checked_ids
from ctxcompress_integrations.index.rows import Row, sorted_out, to_rows
from ctxcompress_integrations.index.summarized import SummarizedIndex
from ctxcompress_integrations.index.vectors import IVF_FROM
from ctxcompress_integrations.records import Passage

FLUSH_FROM = 10_000  # changes that may wait in the log; from 100,000 vectors on, a tenth of their number


class CompressedIndex(SummarizedIndex):
    """One index directory, opened by ``create`` or ``open``; use it in a ``with`` block, or ``close`` it.

    Every change is on disk when its method returns. Threads may share a handle. Embedding runs outside its locks.
    """

    def __init__(
        self, layout: Layout, embedder: object | None, lock: FileLock | None, *, memory_map: bool = False
    ) -> None:
        """Used by ``create`` and ``open``; ``lock`` is held, or None for a reader."""
        self._file_lock = lock
        self._change_lock = RLock()  # taken before the lock of the reading half
        super().__init__(layout, embedder, is_read_only=lock is None, memory_map=memory_map)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        embedder: object | None = "mini",
        dimension: int | None = None,
        ivf_from: int = IVF_FROM,
        exist_ok: bool = False,
    ) -> Self:
        """Make an empty index and open it for writing. The embedder is loaded and asked for one vector.

        Args:
            embedder: a name, or an object with ``embed_documents`` and ``embed_query``, with
                ``get_text_embedding_batch`` and ``get_query_embedding``, or with ``encode``; None for an index that is
                only ever given vectors (``add(..., vectors=...)``, ``search_vector``).
            dimension: of the vectors, with ``embedder=None``.
            ivf_from: number of vectors from which the search is approximate.
            exist_ok: open the index that is already there, if there is one.

        Raises:
            IndexExistsError: something is already there.
        """
        ivf_from = whole("ivf_from", ivf_from)
        layout = Layout(Path(path))
        if (embedder is None) != (dimension is not None):
            raise ValueError(f"give an embedder or a dimension, got embedder={embedder!r:.80}, dimension={dimension!r}")
        if exist_ok and layout.manifest.exists():
            return cls.open(path, embedder=given_vectors(dimension) if embedder is None else embedder)
        directory.check_vacant(layout)
        resolved = None if embedder is None else resolve(embedder)
        identity = given_vectors(dimension) if resolved is None else identify(resolved)
        lock = directory.make(layout, identity, ivf_from)
        with directory.released_on_error(lock):
            return cls(layout, resolved, lock)

    @classmethod
    def open(
        cls, path: str | Path, *, embedder: object | None = None, read_only: bool = False, memory_map: bool = False
    ) -> Self:
        """Open an index at its last committed state.

        Args:
            embedder: the one that made it, when the manifest's name alone cannot bring it back.
            read_only: need no lock, and follow what a writer commits meanwhile.
            memory_map: leave the vectors in the file while no change waits in the log (``flush`` sees to that). The
                file is then checked by its size only; ``verify`` checks all of it.

        Raises:
            IndexNotFoundError, IndexVersionError, IndexLockedError, IndexDamagedError: as their names say.
            EmbedderMismatchError: ``embedder`` is another one; if it goes by the same name, at its first use.
        """
        layout = Layout(Path(path))
        Manifest.read(layout)
        if read_only:
            return cls(layout, embedder, None, memory_map=memory_map)
        lock = directory.acquire(layout)
        with directory.released_on_error(lock):
            return cls(layout, embedder, lock, memory_map=memory_map)

    @classmethod
    def rebuild(
        cls,
        path: str | Path,
        *,
        embedder: object | None = None,
        batch_size: int = 256,
        progress: Progress | None = None,
    ) -> Self:
        """Open an index whose ``index.faiss`` or ``manifest.json`` is lost or damaged, by embedding its passages again.

        Raises:
            IndexDamagedError: ``passages.sqlite`` is lost too, or the manifest is and no embedder was given.
        """
        batch_size = whole("batch_size", batch_size)
        layout = Layout(Path(path))
        if not layout.passages.exists():
            Manifest.read(layout)
        lock = directory.acquire(layout)
        with directory.released_on_error(lock):
            resolved = directory.embed_again(layout, embedder, batch_size=batch_size, progress=progress)
            return cls(layout, resolved, lock)

    # -- changing

    def add(
        self,
        passages: Iterable[Passage],
        *,
        vectors: ArrayLike | None = None,
        batch_size: int = 256,
        progress: Progress | None = None,
    ) -> int:
        """Add passages, or replace those with the same id; each batch is committed, all of it or nothing.

        A passage that is already there as it is costs nothing; if only its metadata differ, it is not embedded again.
        Scores of the passages are not kept.

        Args:
            vectors: ``[n, d]``, one per passage, where they are known already; every passage is then written.
            progress: called after each batch with the number of passages done and of all.

        Returns:
            How many were new or changed.
        """
        batch_size = whole("batch_size", batch_size)
        rows, n_changed = to_rows(passages), 0
        given = None if vectors is None or not rows else given_rows(vectors, len(rows), self.dimension)
        with self._changing():
            for start in range(0, len(rows), batch_size):
                batch = slice(start, start + batch_size)
                n_changed += self._add(rows[batch], None if given is None else given[batch])
                if progress is not None:
                    progress(min(start + batch_size, len(rows)), len(rows))
        return n_changed

    def delete(self, ids: Sequence[str]) -> int:
        """Delete passages in one commit; unknown ids are ignored. Returns how many there were."""
        ids = checked_ids(ids)
        with self._changing():
            with self._view():
                internals = [stored.internal for stored in self._store.lookup(ids).values()]
            if internals:
                self._commit([], [], {}, internals)
        return len(internals)

    def flush(self) -> None:
        """Fold the change log into ``index.faiss``. Nothing needs it to be safe; it makes the next opening faster."""
        with self._changing():
            self._flush(is_forced=False)

    def compact(self) -> None:
        """``flush``, fit the search to the number of vectors, drop the summaries of texts that are no longer here, and
        give unused room back to the disk.
        """
        with self._changing():
            with self._view() as vectors:
                is_forced = vectors.needs_fit(self._manifest.ivf_from)
            self._flush(is_forced=is_forced)
            self._compact_summaries()
            with self._lock:
                self._store.vacuum()

    def close(self) -> None:
        """Flush, if this is the writer, and let go of the files. What was committed is safe without it, too."""
        with self._change_lock:
            if self.is_closed:
                return
            with ExitStack() as last:  # each of these happens, whatever the one before it ran into
                if self._file_lock is not None:
                    last.callback(self._file_lock.release)
                last.callback(self._shut)
                if self._file_lock is not None:
                    self._flush(is_forced=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- below

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._change_lock:
            self._check_open()
            if self._file_lock is None:
                raise IndexReadOnlyError(f"{self._layout.root} is open read-only: open it without read_only=True")
            yield

    def _add(self, rows: list[Row], given: NDArray[np.float32] | None) -> int:
        with self._view():
            stored = self._store.lookup([row.id for row in rows])
        new, metadata = sorted_out(rows, stored, is_forced=given is not None)
        if new or metadata:
            vectors = given
            if vectors is None:
                texts = [row.text for row in new]
                vectors = self._embedder.get().documents(texts) if texts else np.empty((0, self.dimension), np.float32)
            removed = [stored[row.id].internal for row in new if row.id in stored]
            self._commit(new, [vector.tobytes() for vector in vectors], metadata, removed)
        return len(new) + len(metadata)

    def _commit(self, rows: list[Row], vectors: list[bytes], metadata: dict[str, str], removed: list[int]) -> None:
        with self._lock:
            self._store.commit(rows, vectors, metadata, removed)
            is_full = self._store.n_pending() >= max(FLUSH_FROM, len(self._store) // 10)
        if is_full:
            self._flush(is_forced=False)

    def _flush(self, *, is_forced: bool) -> None:
        with self._view() as vectors:
            n_pending, sequence = self._store.n_pending(), self._live.sequence
            is_outgrown = not vectors.is_ivf and vectors.needs_fit(self._manifest.ivf_from)
        if not n_pending and not is_forced:
            return
        # Outside the lock: searches go on meanwhile, and only this thread may change the vectors.
        if is_forced or is_outgrown:
            vectors = vectors.fitted(self._manifest.ivf_from)
        snapshots.save(self._layout, vectors, sequence, self._forget)
        with self._lock:
            self._live.swap(vectors)

    def _forget(self, sequence: int) -> None:
        with self._lock:
            self._store.forget_pending(sequence)
