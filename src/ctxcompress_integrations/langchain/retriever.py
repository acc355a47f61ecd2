"""``CompressedRetriever``: any LangChain retriever, with what it finds pruned to the query."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import ConfigDict, Field

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor


class CompressedRetriever(BaseRetriever):
    """Retrieve, then compress.

    Args:
        retriever: what finds documents: a retriever, or any runnable from a query to documents.
        compressor: what prunes them. With its ``drop_empty`` fewer documents than found may come back.
        k: documents to retrieve; None for what ``retriever`` does by itself. ``invoke(query, k=3)`` overrides it. A
            retriever that takes no ``k`` finds what it finds, and the first ``k`` are compressed.

    Raises:
        ValueError: ``k`` below 1, or an unknown field.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    retriever: RetrieverLike
    compressor: ContextDocumentCompressor = Field(default_factory=ContextDocumentCompressor)
    k: int | None = Field(default=None, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        child, wanted = run_manager.get_child(), self._wanted(k)
        found = self.retriever.invoke(query, {"callbacks": child}, **self._arguments(wanted))
        return self.compressor.compress_documents(found[:wanted], query, child)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        child, wanted = run_manager.get_child(), self._wanted(k)
        found = await self.retriever.ainvoke(query, {"callbacks": child}, **self._arguments(wanted))
        return await self.compressor.acompress_documents(found[:wanted], query, child)

    def _wanted(self, k: int | None) -> int | None:
        return self.k if k is None else whole("k", k)

    def _arguments(self, wanted: int | None) -> dict[str, Any]:
        """``k`` for the retriever, when one is asked for and the retriever takes it at run time."""
        inner = self.retriever
        while isinstance(inner, RunnableBindingBase):  # with_config(), with_retry() ...
            inner = inner.bound
        if wanted is None or not isinstance(inner, BaseRetriever):
            return {}
        taken = signature(inner._get_relevant_documents).parameters
        has_k = "k" in taken or any(p.kind is Parameter.VAR_KEYWORD for p in taken.values())
        return {"k": wanted} if has_k else {}
