"""``index.faiss`` and its place in the directory: written, replaced and read so that no crash can part it from its log.

Replacing takes four steps, and the directory is whole between any two of them: the new file is written beside the old
one; the manifest names both; the new file takes the place of the old one; the log forgets what the new file holds, and
the manifest forgets the old one. Reading takes whichever file is there, and replays the log from the change it ends at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import IO, NamedTuple

from ctxcompress_integrations.errors import IndexDamagedError, IndexDirectoryError, IndexLockedError
from ctxcompress_integrations.index.layout import Layout, damaged, replacing
from ctxcompress_integrations.index.manifest import Manifest, Snapshot
from ctxcompress_integrations.index.passages import PassageStore, State
from ctxcompress_integrations.index.vectors import VectorIndex

_ATTEMPTS = 20  # a reader starts again when a writer replaces the file under its eyes


class View(NamedTuple):
    """A snapshot, the state of the store, and the changes that lie between them."""

    vectors: VectorIndex
    snapshot: Snapshot
    state: State
    changes: list[tuple[int, bytes | None]]


def write_first(layout: Layout, vectors: VectorIndex) -> Snapshot:
    """Write ``index.faiss`` in a directory that has no manifest yet."""
    with replacing(layout.vectors) as file:
        return _write(vectors, file, 0)


def save(layout: Layout, vectors: VectorIndex, sequence: int, forget: Callable[[int], None]) -> None:
    """Make ``vectors``, which hold all changes up to ``sequence``, the snapshot; ``forget`` drops them from the log."""
    with replacing(layout.vectors) as file:
        new = _write(vectors, file, sequence)
        manifest = Manifest.read(layout)
        size = layout.vectors.stat().st_size if layout.vectors.exists() else -1
        # All that may be there now, not only the last: an earlier save may have failed just after its rename.
        old = tuple(entry for entry in manifest.snapshots if entry.size == size)
        replace(manifest, snapshots=(*old, new)).write(layout)
    forget(sequence)
    replace(manifest, snapshots=(new,)).write(layout)


def load(layout: Layout, store: PassageStore, *, is_mapped: bool, is_hashed: bool) -> View:
    """Read the snapshot and begin a read of the store that fits it; the caller ends it.

    Args:
        is_mapped: leave the vectors in the file.
        is_hashed: compare the whole file with its hash, not only its size.

    Raises:
        IndexDamagedError: a file is missing, cut short, changed, or older than another one.
    """
    last: Snapshot | None = None
    for _ in range(_ATTEMPTS):
        # The file first: what it holds was committed to the store before, so the store cannot be behind it.
        vectors, snapshot, manifest = _read(layout, is_mapped=is_mapped, is_hashed=is_hashed)
        store.begin()
        try:
            state = store.state()
            _check_state(layout, manifest, snapshot, state)
            if state.flushed <= snapshot.sequence:
                return View(vectors, snapshot, state, store.pending_after(snapshot.sequence))
        except BaseException:
            store.end()
            raise
        store.end()
        if snapshot == last:
            raise damaged(layout.vectors, "is older than passages.sqlite")
        last = snapshot
    raise _busy(layout)


def _check_state(layout: Layout, manifest: Manifest, snapshot: Snapshot, state: State) -> None:
    if state.index_id != manifest.index_id:
        raise damaged(layout.passages, "belongs to another index than manifest.json")
    if state.sequence < snapshot.sequence:
        raise IndexDamagedError(
            f"{layout.passages} is older than index.faiss: restore both from one backup, or embed again what it holds "
            f"with CompressedIndex.rebuild({str(layout.root)!r})"
        )


def _read(layout: Layout, *, is_mapped: bool, is_hashed: bool) -> tuple[VectorIndex, Snapshot, Manifest]:
    for _ in range(_ATTEMPTS):
        manifest = Manifest.read(layout)
        with _opened(layout) as file:
            inode = os.fstat(file.fileno()).st_ino
            snapshot = _snapshot_of(file, manifest, is_hashed=is_hashed)
            if snapshot is None:
                if _is_unchanged(layout, manifest, inode):
                    raise damaged(layout.vectors, _difference(file, manifest))
                continue
            try:
                vectors = VectorIndex.map(str(layout.vectors)) if is_mapped else VectorIndex.read(file.read)
            except (ValueError, MemoryError) as error:
                raise damaged(layout.vectors, f"cannot be read ({error})") from error
            if is_mapped and layout.vectors.stat().st_ino != inode:
                continue
        if vectors.dimension != manifest.embedder.dimension:
            raise damaged(layout.vectors, f"has {vectors.dimension} dimensions, not {manifest.embedder.dimension}")
        return vectors, snapshot, manifest
    raise _busy(layout)


def _opened(layout: Layout) -> IO[bytes]:
    try:
        return layout.vectors.open("rb")
    except FileNotFoundError:
        raise damaged(layout.vectors, "is missing") from None
    except OSError as error:
        raise IndexDirectoryError(f"{layout.vectors} cannot be read ({error.strerror}): fix its permissions") from error


def _snapshot_of(file: IO[bytes], manifest: Manifest, *, is_hashed: bool) -> Snapshot | None:
    """The entry of the manifest that the file is; the file is left at its beginning."""
    size = os.fstat(file.fileno()).st_size
    entries = [entry for entry in manifest.snapshots if entry.size == size]
    if entries and (is_hashed or len(entries) > 1):
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # wants a raw buffer, too
        entries = [entry for entry in entries if entry.sha256 == digest]
        file.seek(0)
    return entries[-1] if entries else None


def _is_unchanged(layout: Layout, manifest: Manifest, inode: int) -> bool:
    return layout.vectors.exists() and layout.vectors.stat().st_ino == inode and Manifest.read(layout) == manifest


def _difference(file: IO[bytes], manifest: Manifest) -> str:
    size, expected = os.fstat(file.fileno()).st_size, [entry.size for entry in manifest.snapshots]
    if size in expected:
        return "was changed after it was written"
    return f"has {size} bytes where manifest.json expects {' or '.join(map(str, expected))}"


def _write(vectors: VectorIndex, file: IO[bytes], sequence: int) -> Snapshot:
    digest, size = hashlib.sha256(), 0

    def write(data: bytes) -> int:
        nonlocal size
        digest.update(data)
        size += len(data)
        return file.write(data)

    vectors.write(write)
    return Snapshot(digest.hexdigest(), size, sequence)


def _busy(layout: Layout) -> IndexLockedError:
    return IndexLockedError(f"{layout.root} is being rewritten all the time: try again later")
