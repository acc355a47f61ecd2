"""The check of a whole directory, file by file."""

from __future__ import annotations

from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index import snapshots
from ctxcompress_integrations.index.layout import Layout, damaged
from ctxcompress_integrations.index.passages import PassageStore
from ctxcompress_integrations.index.summaries.checking import problems as summary_problems


def problems(layout: Layout, store: PassageStore, index_id: str) -> list[str]:
    """What is wrong with a directory, each with the file's name and the cure; empty when nothing is.

    Reads every byte: the manifest against its checksum, ``index.faiss`` against its hash, SQLite's own check, every
    text against its hash, the vectors against the passages, the summaries against their catalogue.
    """
    found = []
    try:
        found += store.problems()
    except IndexDirectoryError as error:
        found.append(str(error))
    found += summary_problems(layout, index_id)
    try:
        # Mapped, so that a check needs no second copy of the vectors in memory.
        view = snapshots.load(layout, store, is_mapped=True, is_hashed=True)
    except IndexDirectoryError as error:
        return [*found, str(error)]
    try:
        with_vector = set(view.vectors.internals().tolist())
        with_vector |= {internal for internal, vector in view.changes if vector is not None}
        with_vector -= {internal for internal, vector in view.changes if vector is None}
        passages = set(store.internals())
    except IndexDirectoryError as error:
        return [*found, str(error)]
    finally:
        store.end()
    if missing := len(passages - with_vector):
        found.append(str(damaged(layout.vectors, f"lacks the vectors of {missing} passages")))
    if extra := len(with_vector - passages):
        found.append(str(damaged(layout.vectors, f"holds {extra} vectors without a passage")))
    return found
