"""Shards: blocks of rows in safetensors files that say themselves whose they are. Written once, never changed.

Metadata of a file: ``format``, ``version``, ``index_id``, ``number``, ``fingerprint``, ``codec``. A codebook is such a
file, too, with the one tensor ``centroids``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.index.layout import damaged
from ctxcompress_integrations.index.summaries import tensorfile
from ctxcompress_integrations.index.summaries.block import Block, Summary
from ctxcompress_integrations.index.summaries.codecs import Codec
from ctxcompress_integrations.index.summaries.tensorfile import Tensors, Written

FORMAT = "ctxcompress-summaries"
VERSION = "1"
CODEBOOK = "codebook"
_ROWS = {"text_sha256": "|u1", "start": "<i8", "n_tokens": "<i4", "error": "<f4", "crc32": "<u4"}


def label(*, index_id: str, number: int, fingerprint: str, codec: str) -> dict[str, str]:
    """The metadata of a file: whose it is."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "index_id": index_id,
        "number": str(number),
        "fingerprint": fingerprint,
        "codec": codec,
    }


def write(path: Path, block: Block, metadata: Mapping[str, str]) -> Written:
    """Write a shard: complete and durable, or not at all."""
    columns = {name: getattr(block, name).astype(dtype, copy=False) for name, dtype in _ROWS.items()}
    return tensorfile.write(path, {**columns, **block.payload}, metadata)


def read_centroids(path: Path, size: int, metadata: Mapping[str, str]) -> NDArray[np.float32]:
    """float32 ``[d / 4, 128, 4]``: a codebook in memory; errors as of :class:`Shard`."""
    tensors = _read(path, size, metadata)
    if set(tensors) != {"centroids"} or tensors["centroids"].ndim != 3:
        raise damaged(path, "is no codebook")
    return np.array(tensors["centroids"])


class Shard:
    """An open shard, mapped into memory; it outlives the removal of its file.

    Args:
        path: of the file.
        size: that it must have.
        metadata: that it must have.
        codec: that decodes it.

    Raises:
        FileNotFoundError: there is no such file.
        IndexDamagedError: it is not the file that ``size`` and ``metadata`` say, or its columns do not fit together.
    """

    def __init__(self, path: Path, size: int, metadata: Mapping[str, str], codec: Codec) -> None:
        self._path, self.codec = path, codec
        self.block = _block(path, _read(path, size, metadata), codec)
        self._is_checked = np.zeros(len(self.block), bool)

    def encoded_rows(self, keys: Mapping[int, bytes]) -> Block:
        """Some rows as they are, after a check of each.

        Args:
            keys: hash of the text that each row must be of.

        Raises:
            IndexDamagedError: a row is another text's, or not what was written.
        """
        for row, key in keys.items():
            self._check(row, key)
        return self.block.taken(sorted(keys))

    def row(self, row: int, key: bytes) -> Summary:
        """One row decoded, after a check at its first reading; errors as of :meth:`encoded_rows`."""
        self._check(row, key)
        return self.block.summaries([row], self.codec)[0]

    def _check(self, row: int, key: bytes) -> None:
        if row >= len(self.block) or self.block.text_sha256[row].tobytes() != key:
            raise damaged(self._path, f"and the catalogue disagree about row {row}")
        if not self._is_checked[row]:
            if not self.block.is_intact(row):
                raise damaged(self._path, f"was changed after it was written (row {row})")
            self._is_checked[row] = True


def _read(path: Path, size: int, metadata: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    tensors, found = tensorfile.read(path, size=size)
    for key, expected in metadata.items():
        if found.get(key) != expected:
            raise damaged(
                path, f"is not the file that the catalogue means ({key} {found.get(key)!r}, not {expected!r})"
            )
    return tensors


def _block(path: Path, tensors: Tensors, codec: Codec) -> Block:
    expected = {**_ROWS, **{name: dtype for name, (dtype, _) in codec.columns.items()}}
    if {name: tensor.dtype for name, tensor in tensors.items()} != {n: np.dtype(d) for n, d in expected.items()}:
        raise damaged(path, f"holds {sorted(tensors)} where {sorted(expected)} of certain types are expected")
    rows = {name: np.array(tensors[name]) for name in _ROWS}  # small, and looked at all the time: in memory
    block = Block(**rows, payload={name: tensors[name] for name in codec.columns})
    n_rows, start = len(block.text_sha256), block.start
    is_sound = (
        all(len(rows[name]) == n_rows for name in ("n_tokens", "error", "crc32"))
        and block.text_sha256.shape == (n_rows, 32)
        and start.shape == (n_rows + 1,)
        and start[0] == 0
        and bool((np.diff(start) > 0).all())
        and all(
            block.payload[name].shape == ((start[-1],) if width is None else (start[-1], width))
            for name, (_, width) in codec.columns.items()
        )
    )
    if not is_sound:
        raise damaged(path, "has columns that do not fit together")
    return block
