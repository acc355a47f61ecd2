"""``manifest.json`` as a frozen object: what an index directory is, and which files belong to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctxcompress_integrations.errors import IndexDirectoryError, IndexNotFoundError, IndexVersionError
from ctxcompress_integrations.index.layout import Layout, damaged, is_unfinished, replacing

FORMAT = "ctxcompress-index"
FORMAT_VERSION = 2  # version 1 had no adapters; it is read as having none
METRIC = "cosine"


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
