"""Files of JSON lines, plain or gzipped, as evaluation and training read them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ctxcompress_integrations.errors import CtxCompressError


class DatasetError(CtxCompressError):
    """A data set without any usable row, or a folder without the file."""


def find_file(folder: Path, name: str) -> Path:
    """The file ``name*.jsonl`` or ``name*.jsonl.gz`` of a folder.

    Raises:
        DatasetError: there is none.
    """
    found = sorted([*folder.glob(f"{name}*.jsonl"), *folder.glob(f"{name}*.jsonl.gz")])
    if not found:
        raise DatasetError(f"there is no {name}*.jsonl or {name}*.jsonl.gz in {folder}; --data names the folder")
    return found[0]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects of a plain or gzipped JSON-lines file.

    Raises:
        DatasetError: a line that holds no object.
    """
    for number, line in enumerate(lines_of(path), start=1):
        if line.strip():
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path}:{number} is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{path}:{number} must hold an object, got {type(row).__name__}")
            yield number, row


def lines_of(path: Path) -> Iterator[bytes]:
    """Lines of a plain or gzipped file; which of the two shows in its bytes, not in its name."""
    with path.open("rb") as plain:
        is_packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file: Iterable[bytes] = gzip.GzipFile(fileobj=plain) if is_packed else plain
        try:
            for i, line in enumerate(file):
                yield line.removeprefix(b"\xef\xbb\xbf") if i == 0 else line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(f"{path} is a damaged gzip file ({error}); fetch or make it again") from error
