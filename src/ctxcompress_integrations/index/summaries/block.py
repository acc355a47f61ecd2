"""Rows as columns: many summaries in a few arrays, the way they lie in a shard.

Knows no files. ``r`` rows, one for each text; ``v`` vectors, those of all rows one after the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.index.summaries.codecs import Codec, Columns, relative_error


class Summary(NamedTuple):
    """One text's vectors ``[m, d]`` on their way in (float32) or out; ``text_sha256`` has 32 bytes."""

    text_sha256: bytes
    vectors: Any  # NDArray[np.float16 | np.float32], or a torch tensor where a device was asked for
    n_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows under one codec.

    Attributes:
        text_sha256: uint8 ``[r, 32]``.
        start: int64 ``[r + 1]``: row ``i`` has the vectors ``start[i]`` to ``start[i + 1]``.
        n_tokens: int32 ``[r]``.
        error: float32 ``[r]``: mean relative error of the row's vectors, measured when they were coded.
        crc32: uint32 ``[r]``: over the text's hash, ``n_tokens`` and the row's part of each payload column.
        payload: the codec's columns, ``[v, ...]``, by name.
    """

    text_sha256: NDArray[np.uint8]
    start: NDArray[np.int64]
    n_tokens: NDArray[np.int32]
    error: NDArray[np.float32]
    crc32: NDArray[np.uint32]
    payload: Columns

    @classmethod
    def coded(cls, summaries: Sequence[Summary], codec: Codec) -> Self:
        """Summaries, at least one, under a codec."""
        vectors = np.concatenate([summary.vectors for summary in summaries])
        payload = codec.encode(vectors.astype(np.float32, copy=False))
        start = np.cumsum([0, *(len(summary.vectors) for summary in summaries)], dtype=np.int64)
        error = np.add.reduceat(relative_error(vectors, codec.decode(payload)), start[:-1]) / np.diff(start)
        hashes = np.frombuffer(b"".join(summary.text_sha256 for summary in summaries), np.uint8).reshape(-1, 32)
        n_tokens = np.array([summary.n_tokens for summary in summaries], np.int32)
        unsigned = cls(hashes, start, n_tokens, error.astype(np.float32), np.zeros(len(hashes), np.uint32), payload)
        for row in range(len(hashes)):
            unsigned.crc32[row] = unsigned._checksum(row)
        return unsigned

    @classmethod
    def joined(cls, blocks: Sequence[Self]) -> Self:
        """The rows of several blocks, at least one, under the same codec."""
        if len(blocks) == 1:
            return blocks[0]
        sizes = np.concatenate([np.diff(block.start) for block in blocks])
        return cls(
            np.concatenate([block.text_sha256 for block in blocks]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([block.n_tokens for block in blocks]),
            np.concatenate([block.error for block in blocks]),
            np.concatenate([block.crc32 for block in blocks]),
            {name: np.concatenate([block.payload[name] for block in blocks]) for name in blocks[0].payload},
        )

    def taken(self, rows: Sequence[int]) -> Self:
        """Some rows, ascending."""
        if len(rows) == len(self):
            return self
        sizes = np.diff(self.start)[rows]
        kept = np.repeat(np.isin(np.arange(len(self)), rows), np.diff(self.start))
        return type(self)(
            self.text_sha256[rows],
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            self.n_tokens[rows],
            self.error[rows],
            self.crc32[rows],
            {name: column[kept] for name, column in self.payload.items()},
        )

    def __len__(self) -> int:
        return len(self.text_sha256)

    @property
    def n_vectors(self) -> int:
        """``v``."""
        return int(self.start[-1])

    @property
    def mean_error(self) -> float:
        """Mean relative error of the vectors."""
        return float((self.error.astype(np.float64) * np.diff(self.start)).sum() / self.n_vectors)

    def keys(self) -> list[bytes]:
        """The hash of each row's text."""
        return [row.tobytes() for row in self.text_sha256]

    def part(self, row: int) -> Columns:
        """The payload of one row, as views."""
        return {name: column[self.start[row] : self.start[row + 1]] for name, column in self.payload.items()}

    def is_intact(self, row: int) -> bool:
        """Whether a row is, byte for byte, what was written."""
        return self._checksum(row) == int(self.crc32[row])

    def summaries(self, rows: Iterable[int], codec: Codec) -> list[Summary]:
        """Rows decoded."""
        return [
            Summary(self.text_sha256[row].tobytes(), codec.decode(self.part(row)), int(self.n_tokens[row]))
            for row in rows
        ]

    def _checksum(self, row: int) -> int:
        crc = zlib.crc32(self.text_sha256[row].tobytes() + int(self.n_tokens[row]).to_bytes(4, "little", signed=True))
        for _, column in sorted(self.part(row).items()):
            crc = zlib.crc32(np.ascontiguousarray(column).data, crc)
        return crc
