"""``CompressedIndexVectorStore``: ``CompressedIndex`` as a LlamaIndex vector store.

LlamaIndex embeds, the store keeps: vectors come with the nodes. Similarities are cosines, ids are the nodes' own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from ctxcompress_integrations.host_reading import with_summary_key
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.llama_index.filters import where_of, where_of_query
from ctxcompress_integrations.llama_index.handles import Handles
from ctxcompress_integrations.llama_index.nodes import hide
from ctxcompress_integrations.records import Passage


class CompressedIndexVectorStore(BasePydanticVectorStore):
    """A FAISS store on disk with upserts, deletes, metadata filters and true similarities.

    Args:
        path: the index directory; opened on first use, made when the first nodes come.
        summaries: fingerprint of a summarizer: nodes that a query finds then carry the key of its summary, for a
            ``SummarySynthesizer``, under ``metadata["ctxcompress"]``, hidden from LLM and embedder.
        read_only: need no lock, and follow what a writer commits meanwhile: an index has many readers and one writer.

    Copies share the open index; what comes from a pickle or ``from_dict`` opens its own.

    Raises:
        IndexLockedError, IndexNotFoundError: at first use, as for :meth:`CompressedIndex.open`.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    path: str
    summaries: str | None = None
    read_only: bool = False

    _handles: Handles = PrivateAttr(default_factory=Handles)

    def __init__(self, path: str | Path, **kwargs: Any) -> None:
        super().__init__(path=str(path), **kwargs)

    @classmethod
    def class_name(cls) -> str:
        return "CompressedIndexVectorStore"

    @property
    def client(self) -> CompressedIndex | None:
        """The index, open; None before the first nodes come."""
        return self._handles.find(self.path, read_only=self.read_only)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes, or replace those with the same id; each needs its embedding."""
        if not nodes:
            return []
        vectors = [node.get_embedding() for node in nodes]
        index = self._handles.find_or_make(self.path, read_only=self.read_only, dimension=len(vectors[0]))
        latest = {node.node_id: i for i, node in enumerate(nodes)}  # an id that comes twice: the last one stands
        index.add([_passage(nodes[i]) for i in latest.values()], vectors=[vectors[i] for i in latest.values()])
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of one document."""
        self.delete_nodes(filters=None, _where={"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete by id, by filter, or by both at once; neither deletes nothing."""
        where = delete_kwargs.get("_where") or where_of(filters)
        if (node_ids is not None or where is not None) and (index := self.client) is not None:
            index.delete(_ids(index, node_ids, where))

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by id, by filter, or by both at once; all of them when neither is given."""
        if (index := self.client) is None:
            return []
        return [_node(passage) for passage in index.get(_ids(index, node_ids, where_of(filters)))]

    def clear(self) -> None:
        """Delete every node."""
        if (index := self.client) is not None:
            index.delete(index.ids())

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Nearest nodes, best first; modes DEFAULT and MMR."""
        modes = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
        if query.mode not in modes:
            raise ValueError(f"the query mode {str(query.mode)!r} is not supported; use 'default' or 'mmr'")
        if query.query_embedding is None:
            raise ValueError("the query has no embedding: this store does not embed")
        if not query.similarity_top_k or (index := self.client) is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        k, is_mmr = query.similarity_top_k, query.mode == VectorStoreQueryMode.MMR
        n_found = int(kwargs.get("mmr_prefetch_k") or 4 * k) if is_mmr else k
        found = index.search_vector(query.query_embedding, max(k, n_found), where_of_query(query))
        if is_mmr and found:
            vectors = index.vectors_of([p.id for p in found]).tolist()
            _, chosen = get_top_k_mmr_embeddings(
                query.query_embedding,
                vectors,
                similarity_top_k=k,
                embedding_ids=list(range(len(found))),
                mmr_threshold=query.mmr_threshold,
            )
            found = [found[i] for i in chosen]
        return VectorStoreQueryResult(
            nodes=[self._found(p) for p in found],
            similarities=[float(p.score or 0.0) for p in found],
            ids=[p.id for p in found],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **kwargs)

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Fold the change log into the index. Every change is on disk already, at ``path``."""
        if not self.read_only and (index := self.client) is not None:
            index.flush()

    def close(self) -> None:
        """Let go of the directory, so that another process may write; the next use opens it again."""
        self._handles.close(self.path, read_only=self.read_only)

    def _found(self, passage: Passage) -> BaseNode:
        node = _node(passage)
        node.metadata = with_summary_key(node.metadata, self.summaries)
        if self.summaries is not None:
            hide(node)
        return node


def _ids(index: CompressedIndex, node_ids: list[str] | None, where: dict[str, Any] | None) -> list[str]:
    if node_ids is None:
        return index.ids(where)
    allowed = set(index.ids(where)) if where else None
    return [id_ for id_ in node_ids if allowed is None or id_ in allowed]


def _passage(node: BaseNode) -> Passage:
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    return Passage(node.node_id, node.get_content(MetadataMode.NONE), metadata=metadata | {"_node_id": node.node_id})


def _node(passage: Passage) -> BaseNode:
    node = metadata_dict_to_node(dict(passage.metadata), text=passage.text)
    node.metadata = with_summary_key(node.metadata, None)
    return node
