"""``ContextDocumentCompressor``: the package's compressors where LangChain expects a document compressor.

Plain fields hold the configuration, so it is pickled, copied and validated like any pydantic model; the model behind it
loads on first use, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict

from ctxcompress_integrations.host_fields import CompressorFields
from ctxcompress_integrations.langchain.documents import from_result, request_of, to_passages

logger = logging.getLogger(__name__)


class ContextDocumentCompressor(CompressorFields, BaseDocumentCompressor):
    """Prune retrieved documents to what the query needs, under one budget over all of them.

    New documents come back, with the same ids and metadata, and the run's figures under ``metadata["ctxcompress"]``.

    Fields as :class:`~ctxcompress_integrations.host_fields.CompressorFields` documents them.

    Raises:
        ValueError: a field that no request could use, at construction.
    """

    model_config = ConfigDict(extra="forbid")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Compressed copies of the documents, in order; a run of its own for the callbacks."""
        return self.as_runnable().invoke({"documents": documents, "query": query}, {"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As :meth:`compress_documents`, off the event loop: concurrent requests share batches."""
        return await self.as_runnable().ainvoke({"documents": documents, "query": query}, {"callbacks": callbacks})

    def as_runnable(self) -> Runnable[Mapping[str, Any], list[Document]]:
        """For chains: ``{"documents" or "context": [...], "query" or "question": "..."}`` in, documents out."""
        return RunnableLambda(self._compress, afunc=self._acompress, name=type(self).__name__)

    def _compress(self, inputs: Mapping[str, Any]) -> list[Document]:
        documents, query = request_of(inputs)
        try:
            result = self._loaded().compress(to_passages(documents), query)
            return from_result(documents, result, drop_empty=self.drop_empty)
        except Exception as error:  # noqa: BLE001 - whatever a model or a document raises is for on_error to judge
            return self._failed(documents, error)

    async def _acompress(self, inputs: Mapping[str, Any]) -> list[Document]:
        documents, query = request_of(inputs)
        try:
            compressor = await asyncio.to_thread(self._loaded)
            result = await compressor.acompress(to_passages(documents), query)
            return from_result(documents, result, drop_empty=self.drop_empty)
        except Exception as error:  # noqa: BLE001 - whatever a model or a document raises is for on_error to judge
            return self._failed(documents, error)

    def _failed(self, documents: Sequence[Document], error: Exception) -> list[Document]:
        if self.on_error == "raise":
            raise error
        logger.warning("compression failed, %d documents pass as they are: %s", len(documents), error)
        return list(documents)
