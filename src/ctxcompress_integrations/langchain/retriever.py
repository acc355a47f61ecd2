"""``CompressedRetriever``: any LangChain retriever, with what it finds pruned to the query."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor


class CompressedRetriever(BaseRetriever):
    """Retrieve, then compress.

    Args:
        retriever: what finds documents.
        compressor: what prunes them. With its ``drop_empty`` fewer documents than found may come back.
        k: documents to retrieve; None for what ``retriever`` does by itself. ``invoke(query, k=3)`` overrides it.

    Raises:
        ValueError: ``k`` below 1.
    """

    retriever: BaseRetriever
    compressor: ContextDocumentCompressor = Field(default_factory=ContextDocumentCompressor)
    k: int | None = Field(default=None, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        child = run_manager.get_child()
        found = self.retriever.invoke(query, {"callbacks": child}, **self._arguments(k))
        return self.compressor.compress_documents(self._first(found, k), query, child)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        child = run_manager.get_child()
        found = await self.retriever.ainvoke(query, {"callbacks": child}, **self._arguments(k))
        return await self.compressor.acompress_documents(self._first(found, k), query, child)

    def _arguments(self, k: int | None) -> dict[str, Any]:
        """``k`` for the retriever, when one is asked for and the retriever takes arguments at run time."""
        wanted = self.k if k is None else k
        return {"k": wanted} if wanted is not None and self.retriever._expects_other_args else {}

    def _first(self, documents: list[Document], k: int | None) -> list[Document]:
        wanted = self.k if k is None else k
        return documents[:wanted]
