"""``ContextDocumentCompressor``: the package's compressors where LangChain expects a document compressor.

Plain fields hold the configuration, so it is pickled, copied and validated like any pydantic model; the model behind it
loads on first use, once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, PrivateAttr

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.langchain.documents import from_result, request_of, to_passages
from ctxcompress_integrations.loading import CompressorConfig, LazyCompressor
from ctxcompress_integrations.options import Unit

logger = logging.getLogger(__name__)


class ContextDocumentCompressor(BaseDocumentCompressor):
    """Prune retrieved documents to what the query needs, under one budget over all of them.

    New documents come back, with the same ids and metadata, and the run's figures under ``metadata["ctxcompress"]``.

    Args:
        method: "mini", "quito", "quito_x", "lexical" or a registered name.
        model, device, dtype, layer: as for :func:`~ctxcompress_integrations.load_compressor`.
        keep_ratio, token_budget, threshold: how much to keep, at most one of them; half when none is given.
        unit, protect, joiner: as for :meth:`~ctxcompress_integrations.TextCompressor.compress`.
        drop_empty: leave out documents of which nothing was kept.
        on_error: "passthrough" hands the documents on as they came, with a logged warning, when compression fails.

    Raises:
        ValueError: a field that no request could use, at construction.
    """

    model_config = ConfigDict(extra="forbid")

    method: str = "mini"
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    layer: int | None = None
    keep_ratio: float | None = None
    token_budget: int | None = None
    threshold: float | None = None
    unit: Unit = "sentence"
    protect: str | list[str] | None = None
    joiner: str | None = None
    drop_empty: bool = True
    on_error: Literal["raise", "passthrough"] = "raise"

    _lazy: LazyCompressor = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Check the configuration; load nothing."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(CompressorConfig)}
        self._lazy = LazyCompressor(CompressorConfig(**fields))

    @classmethod
    def from_compressor(
        cls, compressor: TextCompressor, *, drop_empty: bool = True, on_error: Literal["raise", "passthrough"] = "raise"
    ) -> Self:
        """Around a built compressor, with the options that it was built with. A pickle keeps the fields alone."""
        made = cls(**compressor.options.as_fields(), drop_empty=drop_empty, on_error=on_error)
        made._lazy = made._lazy.around(compressor)
        return made

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
            result = self._lazy.get().compress(to_passages(documents), query)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is for on_error to judge
            return self._failed(documents, error)
        return from_result(documents, result, drop_empty=self.drop_empty)

    async def _acompress(self, inputs: Mapping[str, Any]) -> list[Document]:
        documents, query = request_of(inputs)
        try:
            compressor = await asyncio.to_thread(self._lazy.get)
            result = await compressor.acompress(to_passages(documents), query)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is for on_error to judge
            return self._failed(documents, error)
        return from_result(documents, result, drop_empty=self.drop_empty)

    def _failed(self, documents: Sequence[Document], error: Exception) -> list[Document]:
        if self.on_error == "raise":
            raise error
        logger.warning("compression failed, %d documents pass as they are: %s", len(documents), error)
        return list(documents)
