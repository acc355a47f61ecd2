"""The directory: the names of its files, the one way in which they are replaced, and what to do when one is damaged.

Does not know what is inside ``index.faiss`` and ``passages.sqlite``, only their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ctxcompress_integrations.errors import IndexDamagedError, IndexDirectoryError


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of the files of one index directory."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What the directory is, which embedder made it, and which ``index.faiss`` belongs to it."""
        return self.root / "manifest.json"

    @property
    def vectors(self) -> Path:
        """FAISS snapshot: all vectors up to one point of the change log in ``passages``."""
        return self.root / "index.faiss"

    @property
    def passages(self) -> Path:
        """SQLite: passages, metadata and the changes that the snapshot does not hold yet. The commit point."""
        return self.root / "passages.sqlite"

    @property
    def summaries(self) -> Path:
        """Folder of summary vectors; absent until summaries are built."""
        return self.root / "summaries"

    @property
    def catalogue(self) -> Path:
        """SQLite: which row of which shard holds which summary. The commit point of the summaries."""
        return self.summaries / "catalogue.sqlite"

    def shard(self, number: int) -> Path:
        """Safetensors file of summary rows, or of a codebook."""
        return self.summaries / f"{number:06d}.safetensors"

    @property
    def dropped(self) -> Path:
        """Where all summaries go, in one step, before they are deleted one by one."""
        return self.root / "summaries.dropped"

    @property
    def lock(self) -> Path:
        """Held by the one writer; the operating system lets go of it when the process dies."""
        return self.root / ".lock"


def is_unfinished(layout: Layout) -> bool:
    """True where a creation was cut short: it makes the manifest's temporary file first and gives it its name last."""
    return temporary_of(layout.manifest).exists() and not layout.manifest.exists()


def damaged(path: Path, what: str) -> IndexDamagedError:
    """The error for a damaged file of an index, with the cure that fits the file."""
    if path.name == "catalogue.sqlite":
        cure = "restore it from a backup, or start over with index.drop_summaries() and index.build_summaries(...)"
    elif path.parent.name == "summaries":
        cure = "compute what it held again with index.build_summaries(summarizer, repair=True)"
    elif path.name == "passages.sqlite":
        cure = "restore the directory from a backup, or create the index again from its documents"
    else:
        cure = f"restore it from a backup, or embed again with CompressedIndex.rebuild({str(path.parent)!r})"
    return IndexDamagedError(f"{path} {what}: {cure}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the ``OSError`` of a full or read-only disk into an error of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, IndexDirectoryError):
            raise
        raise IndexDirectoryError(
            f"{path} could not be written ({error.strerror or error}): free space or fix the permissions and try "
            "again; nothing that was committed is lost"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a new ``path`` beside the old one; it takes its place, durably, when the block ends without an error."""
    temporary = temporary_of(path)
    with writing(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def temporary_of(path: Path) -> Path:
    """Where the next version of ``path`` is written. One fixed name: a dead writer's leftover is overwritten."""
    return path.with_name(path.name + ".tmp")


def sync_directory(directory: Path) -> None:
    """Make renames in ``directory`` survive a power cut."""
    if os.name == "nt":  # a directory cannot be opened there, and the rename is already in the journal
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
