"""What can be asked of an index directory: search, passages by id, vectors, a check of its files.

Knows no host framework, no model, and no way to change anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import EmbedderMismatchError
from ctxcompress_integrations.index.embedding import LazyEmbedder, given_rows
from ctxcompress_integrations.index.filters import where_sql
from ctxcompress_integrations.index.layout import Layout, damaged
from ctxcompress_integrations.index.live import LiveVectors
from ctxcompress_integrations.index.manifest import Manifest
from ctxcompress_integrations.index.passages import PassageStore
from ctxcompress_integrations.index.rows import is_unicode
from ctxcompress_integrations.index.vectors import VectorIndex
from ctxcompress_integrations.index.verification import problems
from ctxcompress_integrations.records import Passage

Where = Mapping[str, Any]


class ReadableIndex:
    """The reading half of ``CompressedIndex``. Threads may share it; embedding runs outside its lock.

    Attributes:
        is_closed: whether it was, and can only be opened anew.
    """

    def __init__(self, layout: Layout, embedder: object | None, *, is_read_only: bool, memory_map: bool) -> None:
        self._layout = layout
        self._lock = RLock()
        self._manifest = Manifest.read(layout)
        self._embedder = LazyEmbedder(self._manifest.embedder, embedder)
        self.is_closed = False
        self._store = PassageStore(layout.passages, is_read_only=is_read_only)
        self._live = LiveVectors(layout, self._store, memory_map=memory_map)
        try:
            with self._view():
                pass
        except BaseException:
            self._store.close()
            raise

    def search(self, query: str, k: int = 8, where: Where | None = None) -> list[Passage]:
        """The ``k`` passages nearest to ``query``, best first, ``score`` their cosine; fewer if fewer match.

        Args:
            where: conditions on metadata, as in ``{"lang": "en", "year": {"$gte": 2000}}``; operators are ``$eq $ne $gt
                $gte $lt $lte $in $nin`` on a key, ``$and $or $not`` around conditions. The search among what matches
                is exact.
        """
        return self.search_many([query], k, where)[0]

    def search_many(self, queries: Sequence[str], k: int = 8, where: Where | None = None) -> list[list[Passage]]:
        """``search`` for several queries, embedded in one batch."""
        k = _checked(k, where)
        if isinstance(queries, str):
            raise ValueError(f"search_many takes a list of queries, got the text {queries!r:.80}: use search")
        for query in queries:
            if not isinstance(query, str) or not query.strip():
                raise ValueError(f"a query must be a text that is not blank, got {query!r:.80}")
        return self._search(self._embedder.get().queries(queries), k, where) if queries else []

    def search_vector(self, vector: ArrayLike, k: int = 8, where: Where | None = None) -> list[Passage]:
        """``search`` with a vector ``[d]`` of any length in place of a query."""
        k = _checked(k, where)
        return self._search(given_rows(np.asarray(vector, np.float32)[None], 1, self.dimension), k, where)[0]

    def embed_query(self, query: str) -> NDArray[np.float32]:
        """float32 ``[d]``: the unit vector that ``search`` would look for."""
        vector: NDArray[np.float32] = self._embedder.get().queries([query])[0]
        return vector

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """Passages by id, in the order of ``ids``; unknown ids are left out."""
        ids = checked_ids(ids)
        with self._view():
            return self._store.get(ids)

    def ids(self, where: Where | None = None) -> list[str]:
        """Ids of all passages, or of those that match, in the order in which their texts came in."""
        with self._view():
            return self._store.ids(where)

    def vectors_of(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 ``[n, d]``: the unit vectors of passages, in the order of ``ids``."""
        ids = checked_ids(ids)
        with self._view() as vectors:
            stored = self._store.lookup(ids)
            if unknown := [id_ for id_ in ids if id_ not in stored]:
                raise ValueError(f"no passage has the id {unknown[0]!r}: leave it out, or add the passage first")
            try:
                return vectors.vectors([stored[id_].internal for id_ in ids])
            except LookupError as error:
                raise damaged(self._layout.vectors, f"lacks the vector of a passage ({error})") from error

    def __len__(self) -> int:
        with self._view():
            return len(self._store)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and bool(self.get([id_]))

    @property
    def generation(self) -> int:
        """Number of commits so far; grows by one with every change."""
        with self._view():
            return self._live.generation

    @property
    def embedder_name(self) -> str:
        """Name of the embedder that made the index."""
        return self._manifest.embedder.name

    @property
    def dimension(self) -> int:
        """Length of its vectors."""
        return self._manifest.embedder.dimension

    def verify(self) -> list[str]:
        """What is wrong with the files, each with its name and the cure; empty when nothing is. Reads all of them."""
        with self._lock:
            self._check_open()
            return problems(self._layout, self._store, self._manifest.index_id)

    # -- below

    @contextmanager
    def _view(self) -> Iterator[VectorIndex]:
        """Vectors and store at one and the same state, the newest committed one."""
        with self._lock:
            self._check_open()
            with self._live.view() as vectors:
                yield vectors

    def _check_open(self) -> None:
        if self.is_closed:
            raise ValueError(f"the index {self._layout.root} is closed: open it again with CompressedIndex.open")

    def _shut(self) -> None:
        with self._lock:
            self.is_closed = True
            self._store.close()

    def _search(self, queries: NDArray[np.float32], k: int, where: Where | None) -> list[list[Passage]]:
        with self._view() as vectors:
            if queries.shape[1] != vectors.dimension:
                raise EmbedderMismatchError(
                    f"the query vector has {queries.shape[1]} dimensions, the index {vectors.dimension}: "
                    f"open it with {self.embedder_name!r}"
                )
            allowed = np.asarray(self._store.internals(where), np.int64) if where else None
            hits = vectors.search(queries, k, allowed)
            found = self._store.by_internal(sorted({internal for row in hits for internal, _ in row}))
        try:
            return [[replace(found[internal], score=score) for internal, score in row] for row in hits]
        except KeyError as error:
            raise damaged(self._layout.vectors, f"holds the vector {error}, which has no passage") from error


def checked_ids(ids: Sequence[str]) -> list[str]:
    """``ids`` as a list; a single text is refused: it would be taken for a list of its characters."""
    if isinstance(ids, str):
        raise ValueError(f"ids must be a list of str, got the text {ids!r:.80}: put it in a list")
    ids = list(ids)
    for id_ in ids:
        if not isinstance(id_, str) or not is_unicode(id_):
            raise ValueError(f"ids must be a list of str of valid Unicode, got {id_!r:.80} in it")
    return ids


def _checked(k: int, where: Where | None) -> int:
    """``k`` as an int; ``ValueError`` for one below 1, and for conditions that are none."""
    where_sql(where)
    return whole("k", k)
