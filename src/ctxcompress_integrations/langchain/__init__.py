"""LangChain: a document compressor, a compressing retriever, a vector store over ``CompressedIndex``, and a chat model
that reads summary vectors.
"""

from __future__ import annotations

from ctxcompress_integrations._optional import check

check("langchain_core", extra="langchain")

from ctxcompress_integrations.langchain.chat_model import ChatSummaryReader  # noqa: E402 - after the check
from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor  # noqa: E402
from ctxcompress_integrations.langchain.retriever import CompressedRetriever  # noqa: E402
from ctxcompress_integrations.langchain.turns import passage_blocks, summary_prompt  # noqa: E402
from ctxcompress_integrations.langchain.vectorstore import CompressedIndexVectorStore  # noqa: E402

__all__ = [
    "ChatSummaryReader",
    "CompressedIndexVectorStore",
    "CompressedRetriever",
    "ContextDocumentCompressor",
    "passage_blocks",
    "summary_prompt",
]
