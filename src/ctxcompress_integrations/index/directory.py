"""What is done to a directory as a whole: taking its lock, making it, embedding it again.

Knows no searches and no changes of passages.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from filelock import FileLock, Timeout

from ctxcompress_integrations.errors import (
    IndexDamagedError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadOnlyError,
)
from ctxcompress_integrations.index import snapshots
from ctxcompress_integrations.index.embedding import LazyEmbedder, TextEmbedder, identify, resolve
from ctxcompress_integrations.index.layout import Layout, damaged, is_unfinished, temporary_of, writing
from ctxcompress_integrations.index.manifest import EmbedderIdentity, Manifest
from ctxcompress_integrations.index.passages import PassageStore
from ctxcompress_integrations.index.vectors import IVF_FROM, VectorIndex

_NOT_OURS = {".lock", "lost+found"}  # what an empty directory may hold: the lock, and what a mounted volume has


def acquire(layout: Layout) -> FileLock:
    """Become the one writer, or say at once that there is another.

    Raises:
        IndexLockedError: another handle, of this process or another, is open for writing.
        IndexReadOnlyError: the directory cannot be written.
    """
    lock = FileLock(layout.lock, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise IndexLockedError(
            f"{layout.root} is open for writing elsewhere: close that one first, or open with read_only=True"
        ) from None
    except OSError as error:
        raise IndexReadOnlyError(
            f"{layout.root} cannot be written ({error.strerror or error}): open it with read_only=True"
        ) from error
    return lock


@contextmanager
def released_on_error(lock: FileLock) -> Iterator[None]:
    """Let go of the lock when the block fails."""
    try:
        yield
    except BaseException:
        lock.release()
        raise


def check_vacant(layout: Layout) -> None:
    """Make sure that an index can be made here: nothing, an empty directory, or a creation that was cut short.

    Raises:
        IndexExistsError: something else is here.
    """
    if layout.manifest.exists():
        raise IndexExistsError(
            f"there is already an index at {layout.root}: use CompressedIndex.open, or exist_ok=True"
        )
    if not layout.root.exists() or is_unfinished(layout):
        return
    if not layout.root.is_dir() or {path.name for path in layout.root.iterdir()} - _NOT_OURS:
        raise IndexExistsError(f"{layout.root} is not empty: choose another path, or move away what is there")


def make(layout: Layout, identity: EmbedderIdentity, ivf_from: int) -> FileLock:
    """Make an empty index; the lock that comes back is held."""
    with writing(layout.root):
        layout.root.mkdir(parents=True, exist_ok=True)
    lock = acquire(layout)
    with released_on_error(lock):
        check_vacant(layout)
        with writing(layout.root):
            temporary_of(layout.manifest).touch()  # from here until the manifest gets its name: unfinished
            for path in layout.root.iterdir():
                if path.name.startswith((layout.passages.name, layout.vectors.name)):
                    path.unlink()
        index_id = uuid.uuid4().hex
        PassageStore.create(layout.passages, index_id)
        snapshot = snapshots.write_first(layout, VectorIndex.empty(identity.dimension))
        Manifest(index_id, identity, ivf_from, (snapshot,)).write(layout)
    return lock


def embed_again(
    layout: Layout, source: object | None, *, batch_size: int, progress: Callable[[int, int], None] | None
) -> TextEmbedder:
    """Make ``index.faiss``, and a lost manifest, from the texts in ``passages.sqlite``. The caller holds the lock,
    and gets the embedder that did it.

    Raises:
        IndexDamagedError: the manifest is lost too and no embedder was given.
    """
    store = PassageStore(layout.passages, is_read_only=False)
    try:
        manifest, embedder = _manifest_for(layout, source, store.state().index_id)
        sequence, n_passages, n_done, last = store.state().sequence, len(store), 0, 0
        vectors = VectorIndex.empty(manifest.embedder.dimension)
        while batch := store.texts(last, batch_size):
            rows = embedder.documents([text for _, text, _ in batch])
            vectors.apply([(internal, row.tobytes()) for (internal, *_), row in zip(batch, rows, strict=True)])
            last, n_done = batch[-1][0], n_done + len(batch)
            if progress is not None:
                progress(n_done, n_passages)
        if vectors.needs_fit(manifest.ivf_from):
            vectors = vectors.fitted(manifest.ivf_from)
        manifest.write(layout)
        snapshots.save(layout, vectors, sequence, store.forget_pending)
    finally:
        store.close()
    return embedder


def _manifest_for(layout: Layout, source: object | None, index_id: str) -> tuple[Manifest, TextEmbedder]:
    try:
        manifest = Manifest.read(layout)
    except (IndexDamagedError, IndexNotFoundError) as error:
        if source is None:
            raise damaged(layout.manifest, "is lost, and with it the embedder's name; pass embedder=") from error
        embedder = resolve(source)
        return Manifest(index_id, identify(embedder), IVF_FROM, ()), embedder
    embedder = LazyEmbedder(manifest.embedder, source).get()
    return replace(manifest, index_id=index_id), embedder
