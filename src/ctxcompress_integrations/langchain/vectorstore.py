"""``CompressedIndexVectorStore``: ``CompressedIndex`` as a LangChain vector store.

Ids are the documents' own, adding one again replaces it, scores are cosine similarities, ``filter`` is the index's
``where``.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from ctxcompress_integrations.host_reading import with_summary_key
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.records import Passage


class CompressedIndexVectorStore(VectorStore):
    """A FAISS store on disk with upserts, deletes, metadata filters and true similarities.

    Args:
        index: an open index; the store uses it and leaves closing to its owner.
        embedding: the embeddings that the index was made with, when they are LangChain's.
        summaries: fingerprint of a summarizer: documents that a search finds then carry the key of its summary, for a
            ``ChatSummaryReader``, under ``metadata["ctxcompress"]``.
    """

    def __init__(
        self, index: CompressedIndex, *, embedding: Embeddings | None = None, summaries: str | None = None
    ) -> None:
        self.index, self.summaries = index, summaries
        self._embedding = embedding

    @property
    def embeddings(self) -> Embeddings | None:
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make an index and add the texts; without ``path`` in a folder that goes when the store does."""
        if kwargs:
            raise TypeError(f"unknown argument {sorted(kwargs)[0]!r}")
        folder = tempfile.TemporaryDirectory(prefix="ctxcompress-") if path is None else None
        root: str | Path = Path(folder.name) / "store.index" if path is None and folder else Path(path or "")
        is_new = not Path(root).exists()
        index = CompressedIndex.create(root, embedder=embedding)
        store = cls(index, embedding=embedding)
        if folder is not None:
            weakref.finalize(store, _dispose, index, folder)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except Exception:
            is_bare = is_new and not len(index)
            index.close()
            if is_bare:  # the next call finds its place free
                shutil.rmtree(root)
            raise
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add or replace; texts without an id get a random one. The ids, in order, come back.

        Raises:
            ValueError: an id that is no ``str``; not as many ids or metadata as texts.
        """
        rows = list(texts)
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values is not None and len(values) != len(rows):
                raise ValueError(f"got {len(rows)} texts but {len(values)} {name}")
        chosen = [str(uuid.uuid4()) if id_ is None else id_ for id_ in (ids or [None] * len(rows))]
        metadata = metadatas or [{} for _ in rows]
        passages = {i: Passage(i, t, metadata=m) for i, t, m in zip(chosen, rows, metadata, strict=True)}
        self.index.add(passages.values())  # an id that comes twice: the last one stands, as with two calls
        return chosen

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete by id, or everything when ``ids`` is None; unknown ids are ignored."""
        self.index.delete(self.index.ids() if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return [_document(passage) for passage in self.index.get(ids)]

    def similarity_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Documents with their cosine similarities, best first."""
        return [(self._found(p), float(p.score or 0.0)) for p in self.index.search(query, k, filter)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        return [self._found(passage) for passage in self.index.search_vector(embedding, k, filter)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        vector = self.index.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector.tolist(), k, fetch_k, lambda_mult, filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        found = self.index.search_vector(embedding, max(k, fetch_k), filter)
        vectors = self.index.vectors_of([passage.id for passage in found])
        chosen = maximal_marginal_relevance(np.asarray(embedding, dtype=np.float32), list(vectors), lambda_mult, k)
        return [self._found(found[i]) for i in chosen]

    def _found(self, passage: Passage) -> Document:
        document = _document(passage)
        document.metadata = with_summary_key(document.metadata, self.summaries)
        return document

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(1.0, max(0.0, (1.0 + cosine) / 2.0))


def _document(passage: Passage) -> Document:
    return Document(id=passage.id, page_content=passage.text, metadata=with_summary_key(passage.metadata, None))


def _dispose(index: CompressedIndex, folder: tempfile.TemporaryDirectory[str]) -> None:
    index.close()
    folder.cleanup()
