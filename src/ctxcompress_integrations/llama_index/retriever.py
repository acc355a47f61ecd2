"""``CompressedRetriever``: any LlamaIndex retriever, with what it finds pruned to the query."""

from __future__ import annotations

from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from ctxcompress_integrations.llama_index.postprocessor import ContextNodePostprocessor


class CompressedRetriever(BaseRetriever):
    """Retrieve, then compress.

    Args:
        retriever: what finds nodes.
        postprocessor: what prunes them; the default keeps half of the tokens with ``mini``.
    """

    def __init__(
        self, retriever: BaseRetriever, postprocessor: ContextNodePostprocessor | None = None, **kwargs: Any
    ) -> None:
        self.retriever = retriever
        self.postprocessor = ContextNodePostprocessor() if postprocessor is None else postprocessor
        super().__init__(**{"callback_manager": retriever.callback_manager} | kwargs)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.postprocessor.postprocess_nodes(self.retriever.retrieve(query_bundle), query_bundle)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = await self.retriever.aretrieve(query_bundle)
        return await self.postprocessor.apostprocess_nodes(found, query_bundle)
