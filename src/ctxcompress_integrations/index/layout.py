"""The directory as frozen objects: file names, manifest, and the one way in which its files are replaced.

Does not know what is inside ``index.faiss`` and ``passages.sqlite``, only their names, sizes and hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ctxcompress_integrations.errors import (
    IndexDamagedError,
    IndexDirectoryError,
    IndexNotFoundError,
    IndexVersionError,
)

FORMAT = "ctxcompress-index"
FORMAT_VERSION = 2  # version 1 had no adapters; it is read as having none
METRIC = "cosine"


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


@dataclass(frozen=True, slots=True)
class EmbedderIdentity:
    """What is known of the embedder that made an index.

    Attributes:
        name: the name it was loaded by, or the name that the caller's object gives itself.
        dimension: length of its vectors.
        is_loadable: True when ``name`` alone can bring the embedder back.
        probe: its unit vector for a fixed text; None when the same text gives it another vector each time.
    """

    name: str
    dimension: int
    is_loadable: bool
    probe: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One acceptable state of ``index.faiss``: its bytes, and the last change in the log that it holds."""

    sha256: str
    size: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA adapter that learned to read the summaries of one summarizer.

    Attributes:
        fingerprint: of the summarizer.
        name: of the adapter: a path or a hub name.
        digest: of its weights; None when it is not known.
    """

    fingerprint: str
    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` holds.

    Attributes:
        index_id: also stored in ``passages.sqlite``, so that files of two indexes are never read together.
        ivf_from: number of vectors from which the snapshot is an IVF index.
        snapshots: the acceptable states of ``index.faiss``: one, or two while a writer replaces the file.
        adapters: at most one for each fingerprint.
    """

    index_id: str
    embedder: EmbedderIdentity
    ivf_from: int
    snapshots: tuple[Snapshot, ...]
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def read(cls, layout: Layout) -> Manifest:
        """Read ``manifest.json``.

        Raises:
            IndexNotFoundError: there is no index directory.
            IndexDamagedError: the manifest is missing beside other files of an index, cut short or changed.
            IndexVersionError: it was written by a newer release.
        """
        path = layout.manifest
        try:
            raw = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            if not layout.passages.exists() or is_unfinished(layout):
                raise IndexNotFoundError(
                    f"there is no index at {layout.root}: make one with CompressedIndex.create({str(layout.root)!r})"
                ) from None
            raise damaged(path, "is missing") from None
        except OSError as error:
            raise IndexDirectoryError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
        except (ValueError, RecursionError) as error:
            raise damaged(path, "is not valid JSON") from error
        return cls._from_json(raw, path)

    @classmethod
    def _from_json(cls, raw: Any, path: Path) -> Manifest:
        if not isinstance(raw, dict) or raw.get("format") != FORMAT or not isinstance(raw.get("version"), int):
            raise damaged(path, "is not the manifest of an index")
        if raw["version"] > FORMAT_VERSION:
            raise IndexVersionError(
                f"{path} has format version {raw['version']}, this release reads up to {FORMAT_VERSION}: "
                "upgrade ctxcompress-integrations"
            )
        if raw.pop("checksum", None) != _checksum(raw):
            raise damaged(path, "was changed after it was written")
        try:
            embedder = dict(raw["embedder"])
            probe = embedder.pop("probe")
            return cls(
                index_id=raw["index_id"],
                embedder=EmbedderIdentity(**embedder, probe=None if probe is None else tuple(probe)),
                ivf_from=raw["ivf_from"],
                snapshots=tuple(Snapshot(**entry) for entry in raw["snapshots"]),
                adapters=tuple(Adapter(**entry) for entry in raw.get("adapters", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, f"lacks a field or has one too many ({error})") from error

    def write(self, layout: Layout) -> None:
        """Replace ``manifest.json`` in one step."""
        body = {"format": FORMAT, "version": FORMAT_VERSION, "metric": METRIC, **asdict(self)}
        body = json.loads(json.dumps(body))
        text = json.dumps({**body, "checksum": _checksum(body)}, indent=1) + "\n"
        with replacing(layout.manifest) as file:
            file.write(text.encode())


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


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
