"""Safetensors files, written and memory-mapped: a JSON header, then the bytes of the tensors without a gap.

Knows nothing of rows. Apart from the safetensors package because that copies what it reads for numpy, and cannot hash
what it writes on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index.layout import damaged, replacing

_DTYPES = {"I64": "<i8", "I32": "<i4", "U32": "<u4", "F32": "<f4", "F16": "<f2", "I8": "|i1", "U8": "|u1"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_MAX_HEADER = 1 << 20  # bytes; ours have some hundreds

Tensors = Mapping[str, NDArray[Any]]


class Written(NamedTuple):
    """What a file must be for ever after."""

    size: int
    sha256: str


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> Written:
    """Write a file aside, sync it, and give it its name.

    Raises:
        IndexDirectoryError: the disk is full or cannot be written.
    """
    # Wide types first: then each tensor begins at a multiple of its item's size, which views of a mapped file need.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    parts += (np.ascontiguousarray(tensor).data for _, tensor in ordered)
    with replacing(path) as file:
        for part in parts:
            digest.update(part)
            size += file.write(part)
    return Written(size, digest.hexdigest())


def read(path: Path, *, size: int | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors, read-only views of the mapped file, and metadata. Reads the header alone; the file may be unlinked.

    Args:
        size: what the file must have.

    Raises:
        FileNotFoundError: there is no such file.
        IndexDamagedError: it has another size, or is no safetensors file.
        IndexDirectoryError: it cannot be read.
    """
    try:
        mapped = np.memmap(path, np.uint8, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IndexDirectoryError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    except ValueError as error:  # an empty file cannot be mapped
        raise damaged(path, "is empty") from error
    if size is not None and len(mapped) != size:
        raise damaged(path, f"has {len(mapped)} bytes where the catalogue expects {size}")
    try:
        return _views(mapped.view(np.ndarray))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"is no safetensors file ({error})") from error


def _views(data: NDArray[np.uint8]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    n_header = int.from_bytes(data[:8].tobytes(), "little")
    if n_header > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("its header is longer than it")
    header = json.loads(data[8 : 8 + n_header].tobytes())
    body, expected, tensors = data[8 + n_header :], 0, {}
    metadata = header.pop("__metadata__")
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, (start, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
        if start != expected or end - start != prod(entry["shape"]) * dtype.itemsize or end > len(body):
            raise ValueError(f"{name} does not lie where its shape says")
        tensors[name], expected = body[start:end].view(dtype).reshape(entry["shape"]), end
    if expected != len(body):
        raise ValueError("there is more in it than its header names")
    return tensors, dict(metadata)
