"""LangChain: a document compressor, a compressing retriever, a vector store over ``CompressedIndex``, a chat model that
reads summary vectors, and a middleware for agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxcompress_integrations._optional import check

check("langchain_core", extra="langchain")

from ctxcompress_integrations.langchain.chat_model import ChatSummaryReader  # noqa: E402 - after the check
from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor  # noqa: E402
from ctxcompress_integrations.langchain.retriever import CompressedRetriever  # noqa: E402
from ctxcompress_integrations.langchain.turns import passage_blocks, summary_prompt  # noqa: E402
from ctxcompress_integrations.langchain.vectorstore import CompressedIndexVectorStore  # noqa: E402

if TYPE_CHECKING:
    from ctxcompress_integrations.langchain.middleware import (
        ContextCompressionMiddleware as ContextCompressionMiddleware,
    )

__all__ = [
    "ChatSummaryReader",
    "CompressedIndexVectorStore",
    "CompressedRetriever",
    "ContextDocumentCompressor",
    "passage_blocks",
    "summary_prompt",
]


def __getattr__(name: str) -> object:
    """Agents come with ``langchain`` itself, which nothing else here needs."""
    if name != "ContextCompressionMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check("langchain", extra="agents")
    from ctxcompress_integrations.langchain.middleware import ContextCompressionMiddleware

    return ContextCompressionMiddleware
