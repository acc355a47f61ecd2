"""Vectors in memory that follow the change log: the one way in which a commit, ours or another process's, arrives.

Knows no locks: the owner lets one thread in at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ctxcompress_integrations.index import snapshots
from ctxcompress_integrations.index.layout import Layout, damaged
from ctxcompress_integrations.index.passages import PassageStore, State
from ctxcompress_integrations.index.vectors import VectorIndex


class LiveVectors:
    """The vectors of a store, never older than its last commit when they are looked at.

    Attributes:
        generation: the commit that the vectors are at.
        sequence: the last change that they hold.
    """

    def __init__(self, layout: Layout, store: PassageStore, *, memory_map: bool) -> None:
        self._layout, self._store, self._memory_map = layout, store, memory_map
        self._vectors: VectorIndex | None = None
        self.generation = self.sequence = -1

    @contextmanager
    def view(self) -> Iterator[VectorIndex]:
        """The vectors; inside the block the store is read at the same commit."""
        try:
            yield self._follow()
        finally:
            self._store.end()

    def swap(self, vectors: VectorIndex) -> None:
        """Put an index of the same vectors in the place of the present one."""
        self._vectors = vectors

    def _follow(self) -> VectorIndex:
        self._store.begin()
        state, vectors = self._store.state(), self._vectors
        if vectors is None or state.flushed > self.sequence:
            return self._load(is_mapped=self._memory_map)
        if state.generation == self.generation:
            return vectors
        changes = self._store.pending_after(self.sequence)
        if changes and vectors.is_mapped:
            return self._load(is_mapped=False)
        return self._apply(vectors, changes, state)

    def _load(self, *, is_mapped: bool) -> VectorIndex:
        self._store.end()
        view = snapshots.load(self._layout, self._store, is_mapped=is_mapped, is_hashed=not is_mapped)
        if view.changes and is_mapped:
            return self._load(is_mapped=False)
        vectors = self._apply(view.vectors, view.changes, view.state)
        if len(vectors) != (n := len(self._store)):
            self._vectors = None
            raise damaged(self._layout.vectors, f"and the change log hold {len(vectors)} vectors for {n} passages")
        return vectors

    def _apply(self, vectors: VectorIndex, changes: list[tuple[int, bytes | None]], state: State) -> VectorIndex:
        self._vectors = None  # if it fails half-way, start from the file
        try:
            vectors.apply(changes)
        except ValueError as error:
            raise damaged(self._layout.passages, f"is damaged ({error})") from error
        self._vectors, self.sequence, self.generation = vectors, state.sequence, state.generation
        return vectors
