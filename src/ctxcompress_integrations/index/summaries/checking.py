"""The check of the summaries, byte by byte: shards against the catalogue, the catalogue against itself, strangers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index.layout import Layout, damaged
from ctxcompress_integrations.index.summaries import tensorfile
from ctxcompress_integrations.index.summaries.catalogue import Catalogue, Entry, Origin, inode_of
from ctxcompress_integrations.index.summaries.shards import label

_ATTEMPTS = 20


def problems(layout: Layout, index_id: str) -> list[str]:
    """What is wrong with the summaries, each with the file's name and the cure. Reads every byte.

    Files that the catalogue does not name are none: a writer may be about to name them, or may have died before it did.
    Unless they are no shards of this index.
    """
    for _ in range(_ATTEMPTS):
        inode = inode_of(layout.catalogue)
        found = _problems(layout, index_id)
        if not found or inode == inode_of(layout.catalogue):
            break  # else a writer started over meanwhile
    return found


def fault(path: Path, entry: Entry, metadata: Mapping[str, str], rows: Mapping[int, bytes]) -> str | None:
    """What is wrong with a shard or a codebook; None when nothing is.

    Args:
        path: of the file.
        entry: what the catalogue knows of it.
        metadata: that it must have.
        rows: hash of the text of each of its rows, by position.
    """
    try:
        tensors, found = tensorfile.read(path, size=entry.size)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return str(damaged(path, "is missing"))
    except IndexDirectoryError as error:
        return str(error)
    if any(found.get(key) != expected for key, expected in metadata.items()):
        return str(damaged(path, "is not the file that the catalogue means"))
    if digest != entry.sha256:
        return str(damaged(path, "was changed after it was written"))
    hashes = tensors.get("text_sha256", ())
    if len(hashes) != entry.n_rows or {i: row.tobytes() for i, row in enumerate(hashes)} != rows:
        return str(damaged(path, "and the catalogue disagree about its rows"))
    if not all(np.isfinite(tensor).all() for tensor in tensors.values() if tensor.dtype.kind == "f"):
        return str(damaged(path, "holds values that are not finite"))
    return None


def _problems(layout: Layout, index_id: str) -> list[str]:
    files = sorted(layout.summaries.glob("*.safetensors"))
    if not files and not layout.catalogue.exists():
        return []
    try:
        catalogue = Catalogue(layout, index_id, is_read_only=True)
    except IndexDirectoryError as error:
        return [str(error)]
    try:
        found = _catalogued(layout, index_id, catalogue)
        named = {layout.shard(entry.number) for entry in catalogue.entries()}
    except IndexDirectoryError as error:
        return [str(error)]
    finally:
        catalogue.close()
    strangers = [path for path in files if path not in named and not _is_ours(path, index_id)]
    return found + [f"{path} is no shard of this index: move it away" for path in strangers]


def _catalogued(layout: Layout, index_id: str, catalogue: Catalogue) -> list[str]:
    found = catalogue.problems()
    if found:
        return found
    origins: dict[int, Origin] = {origin.number: origin for origin in catalogue.origins()}
    for entry in catalogue.entries():
        if entry.summarizer not in origins:
            continue  # dropped since the list was made, or homeless, which is said above
        path = layout.shard(entry.number)
        fingerprint = origins[entry.summarizer].fingerprint
        metadata = label(index_id=index_id, number=entry.number, fingerprint=fingerprint, codec=entry.codec)
        reason = fault(path, entry, metadata, catalogue.rows_of(entry.number))
        if reason is not None and catalogue.entry(entry.number) is not None:  # else a writer has replaced it meanwhile
            found.append(reason)
    return found


def _is_ours(path: Path, index_id: str) -> bool:
    try:
        return tensorfile.read(path)[1].get("index_id") == index_id
    except FileNotFoundError:
        return True  # swept up meanwhile
    except IndexDirectoryError:
        return False
