"""How vectors are laid down: as fp16, as int8 with a scale for each, or by product quantisation.

Knows no files and no rows: a codec turns float32 ``[n, d]`` into columns, with one entry for each vector, and back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations._optional import require

Columns = Mapping[str, NDArray[Any]]

N_BITS = 7  # of a code; with N_DIMS that is 1.75 bits a number, and room for the length below an eighth of fp16
N_DIMS = 4  # numbers that share a code
TRAIN_FROM = 64 << N_BITS  # vectors that a codebook is trained on at least
TRAIN_UP_TO = 256 << N_BITS
_SEED = 1234
_SAFE_SQUARE = 1e-24  # below it, float32 may lose the square of a small error


class Codec(ABC):
    """Vectors to columns and back.

    Attributes:
        name: as in ``build_summaries(codec=...)``.
        width: ``d``.
        columns: dtype and width (None for one number) of what a vector becomes.
    """

    name: ClassVar[str]
    width: int
    columns: Mapping[str, tuple[str, int | None]]

    @abstractmethod
    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        """Columns of finite vectors ``[n, d]`` that :meth:`refusal` lets pass."""

    @abstractmethod
    def decode(self, columns: Columns) -> NDArray[Any]:
        """float16 or float32 ``[n, d]``; a view where nothing needs computing."""

    def refusal(self, vectors: NDArray[np.float32]) -> str | None:
        """Why vectors cannot be stored; None when they can."""
        if vectors.shape[1] != self.width:
            return f"{vectors.shape[1]} numbers in a vector, not {self.width} as the other summaries"
        return None if np.isfinite(vectors).all() else "values that are not finite"


class Half(Codec):
    """IEEE fp16: eleven bits of precision, nothing above 65504."""

    name = "fp16"

    def __init__(self, width: int) -> None:
        self.width, self.columns = width, {"vectors": ("<f2", width)}

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        return {"vectors": vectors.astype("<f2")}

    def decode(self, columns: Columns) -> NDArray[Any]:
        return columns["vectors"]

    def refusal(self, vectors: NDArray[np.float32]) -> str | None:
        if (reason := super().refusal(vectors)) is not None:
            return reason
        largest = float(np.abs(vectors).max())
        return f"the value {largest:g}, beyond fp16 (65504): use codec='int8'" if largest > 65504 else None


class Int8(Codec):
    """Symmetric 8-bit integers under one scale for each vector, its largest magnitude / 127."""

    name = "int8"

    def __init__(self, width: int) -> None:
        self.width, self.columns = width, {"codes": ("|i1", width), "scale": ("<f4", None)}

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        scale = (np.abs(vectors).max(axis=1) / 127).astype("<f4")
        safe = np.where(scale > 0, scale, np.float32(1))[:, None]  # 0: the vector is zero, or too small for a scale
        codes = np.where(scale[:, None] > 0, np.rint(vectors / safe), 0)
        return {"codes": np.clip(codes, -127, 127).astype("|i1"), "scale": scale}

    def decode(self, columns: Columns) -> NDArray[Any]:
        return columns["codes"] * columns["scale"][:, None]


class ProductQuantiser(Codec):
    """The direction by FAISS's product quantiser, the length apart: vectors of any length are coded equally well.

    Args:
        centroids: float32 ``[d / 4, 128, 4]``, as :func:`train` makes them.
    """

    name = "pq"

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        n_groups, n_centroids, n_dims = centroids.shape
        self.width = n_groups * n_dims
        self._quantiser = _quantiser(self.width)
        if n_centroids != self._quantiser.ksub or n_dims != self._quantiser.dsub:
            raise ValueError(f"a codebook has the shape [d / {N_DIMS}, {1 << N_BITS}, {N_DIMS}], not {centroids.shape}")
        require("faiss", extra="faiss").copy_array_to_vector(centroids.ravel(), self._quantiser.centroids)
        self.columns = {"codes": ("|u1", self._quantiser.code_size), "length": ("<f4", None)}

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        length, directions = _split(vectors)
        return {"codes": self._quantiser.compute_codes(directions), "length": length}

    def decode(self, columns: Columns) -> NDArray[Any]:
        decoded: NDArray[np.float32] = self._quantiser.decode(np.ascontiguousarray(columns["codes"]))
        decoded *= columns["length"][:, None]
        return decoded

    def refusal(self, vectors: NDArray[np.float32]) -> str | None:
        if (reason := super().refusal(vectors)) is not None:
            return reason
        is_representable = np.linalg.norm(vectors.astype(np.float64), axis=1) <= np.finfo(np.float32).max
        return None if is_representable.all() else "a length beyond float32"


def check_width(codec: str, width: int) -> None:
    """Refuse a width that a codec cannot take.

    Raises:
        ValueError: product quantisation of a width that is no multiple of 4.
    """
    if codec == "pq" and width % N_DIMS:
        raise ValueError(f"codec='pq' codes {N_DIMS} numbers together, but the vectors have {width}: use 'int8'")


def train(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """float32 ``[d / 4, 128, 4]``: a codebook for the directions of ``vectors [n, d]``; takes a while."""
    if len(vectors) > TRAIN_UP_TO:
        vectors = vectors[np.sort(np.random.default_rng(_SEED).choice(len(vectors), TRAIN_UP_TO, replace=False))]
    quantiser = _quantiser(vectors.shape[1])
    quantiser.cp.niter, quantiser.cp.seed, quantiser.cp.min_points_per_centroid = 10, _SEED, 1
    quantiser.train(_split(vectors.astype(np.float32))[1])
    faiss = require("faiss", extra="faiss")
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(quantiser.M, quantiser.ksub, quantiser.dsub)
    return np.asarray(centroids, np.float32)


def relative_error(vectors: NDArray[Any], decoded: NDArray[Any]) -> NDArray[np.float64]:
    """``[n]``: ||x - x'|| / ||x||; 0 for a zero vector that came back as zero."""
    with np.errstate(over="ignore"):
        plain = vectors.astype(np.float32, copy=False)
        away = plain - decoded
        squares, errors = np.einsum("vd,vd->v", plain, plain), np.einsum("vd,vd->v", away, away)
    if squares.min() > _SAFE_SQUARE and np.isfinite(squares).all() and np.isfinite(errors).all():
        fast: NDArray[np.float64] = np.sqrt(errors.astype(np.float64) / squares)
        return fast
    exact = vectors.astype(np.float64)  # three times as slow, for zeros and for squares that float32 cannot hold
    off, length = np.linalg.norm(exact - decoded, axis=1), np.linalg.norm(exact, axis=1)
    result: NDArray[np.float64] = np.divide(off, length, out=np.where(off > 0, np.inf, 0.0), where=length > 0)
    return result


def _quantiser(width: int) -> Any:
    return require("faiss", extra="faiss").ProductQuantizer(width, width // N_DIMS, N_BITS)


def _split(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    directions = vectors / np.where(length > 0, length, 1)[:, None]
    return length.astype("<f4"), np.ascontiguousarray(directions, np.float32)
