"""The open index behind a vector store and its copies."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.index.layout import Layout


class Handles:
    """Open indexes by path and mode; each is opened on first use, by one thread, and anew when a caller has closed it.

    Copies share it, so that they change an index through one handle; a pickle carries nothing, and opens again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[tuple[str, bool], CompressedIndex] = {}

    def find(self, path: str, *, read_only: bool) -> CompressedIndex | None:
        """The index, open; None where there is none yet.

        Raises:
            IndexNotFoundError: there is none, and nothing may be made.
            IndexLockedError: another handle, of this process or another, is open for writing.
        """
        with self._lock:
            found = self._open.get((path, read_only))
            if found is not None and not found.is_closed:
                return found
            if not read_only and not Layout(Path(path)).manifest.exists():
                return None
            self._open[path, read_only] = CompressedIndex.open(path, read_only=read_only)
            return self._open[path, read_only]

    def find_or_make(self, path: str, *, read_only: bool, dimension: int) -> CompressedIndex:
        """The index, open; a new one for vectors of ``dimension`` where there is none. Errors as for :meth:`find`."""
        with self._lock:
            found = self.find(path, read_only=read_only)
            if found is None:
                found = CompressedIndex.create(path, embedder=None, dimension=dimension)
                self._open[path, read_only] = found
            return found

    def close(self, path: str, *, read_only: bool) -> None:
        """Close the index if it is open; the next use opens it again."""
        with self._lock:
            found = self._open.pop((path, read_only), None)
            if found is not None:
                found.close()

    def __deepcopy__(self, memo: Any) -> Handles:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Handles, ()
