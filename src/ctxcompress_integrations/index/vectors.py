"""Unit vectors under internal numbers, in FAISS: exact up to about a million, by inverted lists (IVF) above.

Knows no ids, texts or file names, only numbers; every score is a cosine because every vector has length 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations._optional import require

IVF_FROM = 1_000_000
GROWTH = 1.4  # retrain when the number of lists asked for has grown by this, that is when the vectors have doubled
RECALL = 0.98  # asked of IVF on vectors of its own; leaves room for queries that differ from passages
_CHUNK = 65_536
_BLOCK = 1 << 20
_N_CALIBRATION = 128
_SEED = 1234


@cache
def _faiss() -> Any:
    return require("faiss", extra="faiss")


class VectorIndex:
    """FAISS index of unit vectors.

    Attributes:
        is_mapped: True when the vectors are read from the file as they are needed. FAISS crashes when such an index is
            changed, so it must not be.
    """

    def __init__(self, index: Any, *, is_mapped: bool = False) -> None:
        self._index = index
        self._retired: list[int] = []  # removing from FAISS moves all that follows: wait, and remove in one go
        self.is_mapped = is_mapped

    @classmethod
    def empty(cls, dimension: int) -> VectorIndex:
        """An exact index without vectors."""
        faiss = _faiss()
        return cls(faiss.IndexIDMap2(faiss.IndexFlatIP(dimension)))

    @classmethod
    def read(cls, read: Callable[[int], bytes]) -> VectorIndex:
        """Read what ``write`` wrote from a function that gives the next so many bytes.

        Raises:
            ValueError: it is not such a file.
        """
        faiss = _faiss()
        try:
            return cls(_checked(faiss.read_index(faiss.PyCallbackIOReader(read, _BLOCK))))
        except RuntimeError as error:
            raise ValueError(_reason(error)) from error

    @classmethod
    def map(cls, path: str) -> VectorIndex:
        """Like ``read``, leaving the vectors in the file."""
        faiss = _faiss()
        try:  # IO_FLAG_MMAP alone maps only inverted lists and reads flat vectors into memory
            return cls(_checked(faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)), is_mapped=True)
        except RuntimeError as error:
            raise ValueError(_reason(error)) from error

    def write(self, write: Callable[[bytes], int]) -> None:
        """Write all vectors through a function that takes bytes; its errors come through as they are."""
        self._settle()
        faiss = _faiss()
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(write, _BLOCK))

    def __len__(self) -> int:
        self._settle()
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return int(self._index.d)

    @property
    def is_ivf(self) -> bool:
        """True when the search is approximate."""
        return isinstance(self._index, _faiss().IndexIVF)

    def internals(self) -> NDArray[np.int64]:
        """All internal numbers, in no particular order."""
        self._settle()
        if not self.is_ivf:
            return np.asarray(_faiss().vector_to_array(self._index.id_map), dtype=np.int64)
        lists = [ids for ids, _ in self._chunks()]
        return np.concatenate(lists) if lists else np.empty(0, np.int64)

    def apply(self, changes: Sequence[tuple[int, bytes | None]]) -> None:
        """Replay changes, oldest first: (internal, fp32 bytes) comes in, (internal, None) goes.

        An internal number is given out once, so the order between different ones does not matter.

        Raises:
            ValueError: a vector has another length than ``dimension``.
        """
        if not changes:
            return
        gone = {internal for internal, vector in changes if vector is None}
        new = {i: vector for i, vector in changes if vector is not None and i not in gone}
        if any(len(vector) != 4 * self.dimension for vector in new.values()):
            raise ValueError(f"a vector in the change log has not {self.dimension} dimensions")
        if new:
            rows = np.frombuffer(b"".join(new.values()), np.float32).reshape(-1, self.dimension)
            self._index.add_with_ids(rows, np.fromiter(new, np.int64, len(new)))
        self._retired += gone

    def vectors(self, internals: Sequence[int]) -> NDArray[np.float32]:
        """float32 ``[n, d]``: the stored vectors, in the order asked for.

        Raises:
            LookupError: there is no such vector.
        """
        try:
            return np.asarray(self._index.reconstruct_batch(np.asarray(internals, np.int64)), np.float32)
        except RuntimeError as error:
            raise LookupError(_reason(error)) from error

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None = None
    ) -> list[list[tuple[int, float]]]:
        """The ``k`` nearest of each query ``[q, d]``: (internal, cosine), best first; exact among ``allowed``."""
        self._settle()
        n = self._index.ntotal if allowed is None else len(allowed)
        if n == 0:
            return [[] for _ in queries]
        scores, internals = self._nearest(queries, min(k, n), allowed, is_exhaustive=allowed is not None)
        if self.is_ivf and allowed is None and (internals < 0).any():  # the probed lists held fewer than k
            scores, internals = self._nearest(queries, min(k, n), None, is_exhaustive=True)
        scores = np.clip(scores, -1.0, 1.0)
        return [
            sorted(
                ((i, s) for i, s in zip(ids, row, strict=True) if i >= 0), key=lambda hit: (-hit[1], hit[0])
            )
            for ids, row in zip(internals.tolist(), scores.tolist(), strict=True)
        ]  # fmt: skip

    def needs_fit(self, ivf_from: int) -> bool:
        """True when another kind of index, or another number of lists, suits the present size better."""
        n = len(self)
        if self.is_ivf:
            return n < ivf_from // 2 or _n_lists(n) > GROWTH * self._index.nlist
        return n >= ivf_from

    def fitted(self, ivf_from: int) -> VectorIndex:
        """A new index of the kind that suits the present size, with the same vectors. Trains; takes a while."""
        faiss, n = _faiss(), len(self)
        if n < ivf_from:
            other = VectorIndex.empty(self.dimension)._index
        else:
            other = faiss.IndexIVFFlat(
                faiss.IndexFlatIP(self.dimension), self.dimension, _n_lists(n), faiss.METRIC_INNER_PRODUCT
            )
            other.cp.niter, other.cp.seed = 10, _SEED
            other.cp.min_points_per_centroid, other.cp.max_points_per_centroid = 1, 64
            other.train(self._sample(64 * _n_lists(n)))
            other.set_direct_map_type(faiss.DirectMap.Hashtable)
        for internals, rows in self._chunks():
            other.add_with_ids(rows, internals)
        fitted = VectorIndex(other)
        if fitted.is_ivf:
            fitted._calibrate()
        return fitted

    # -- below

    def _settle(self) -> None:
        if self._retired:
            self._index.remove_ids(np.asarray(self._retired, np.int64))
            self._retired = []

    def _nearest(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None, *, is_exhaustive: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        faiss = _faiss()
        selector = {} if allowed is None else {"sel": faiss.IDSelectorBatch(allowed)}
        if self.is_ivf:
            n_probe = self._index.nlist if is_exhaustive else self._index.nprobe
            parameters = faiss.SearchParametersIVF(nprobe=n_probe, **selector)
        else:
            parameters = faiss.SearchParameters(**selector)
        scores, internals = self._index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
        return scores, internals

    def _calibrate(self) -> None:
        """Probe as few lists as find ``RECALL`` of the ten nearest neighbours of stored vectors."""
        rows = self._sample(_N_CALIBRATION)
        k = min(11, self._index.ntotal)
        _, truth = self._nearest(rows, k, None, is_exhaustive=True)
        n_probe = 1
        while n_probe < self._index.nlist:
            self._index.nprobe = n_probe
            _, found = self._nearest(rows, k, None, is_exhaustive=False)
            hits = sum(np.isin(t[1:], f).sum() for t, f in zip(truth, found, strict=True))
            if hits >= RECALL * truth[:, 1:].size:
                return
            n_probe = math.ceil(1.25 * n_probe)
        self._index.nprobe = self._index.nlist

    def _sample(self, n: int) -> NDArray[np.float32]:
        internals = self.internals()
        if len(internals) > n:
            internals = np.random.default_rng(_SEED).choice(internals, n, replace=False)
        return self.vectors(internals.tolist())

    def _chunks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All (internals ``[n]``, vectors ``[n, d]``), a part at a time."""
        faiss = _faiss()
        if not self.is_ivf:
            internals = self.internals()
            for start in range(0, len(internals), _CHUNK):
                part = internals[start : start + _CHUNK]
                yield part, self._index.index.reconstruct_n(start, len(part))
            return
        lists, shape = self._index.invlists, (-1, self.dimension)
        for number in range(self._index.nlist):
            if size := lists.list_size(number):
                ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
                codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
                yield ids.copy(), codes.view(np.float32).reshape(shape).copy()


def _checked(index: Any) -> Any:
    faiss = _faiss()
    is_flat = isinstance(index, faiss.IndexIDMap2) and isinstance(faiss.downcast_index(index.index), faiss.IndexFlat)
    if not (is_flat or isinstance(index, faiss.IndexIVFFlat)) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(f"holds a FAISS index of another kind ({type(index).__name__})")
    return index


def _reason(error: RuntimeError) -> str:
    return str(error).rpartition("Error: ")[2]


def _n_lists(n: int) -> int:
    return max(1, min(int(4 * math.sqrt(n)), n // 8))
