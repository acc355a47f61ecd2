"""LangChain: a document compressor, a retriever that compresses, and a vector store over ``CompressedIndex``."""

from __future__ import annotations

from ctxcompress_integrations._optional import check

check("langchain_core", extra="langchain")

from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor  # noqa: E402 - after the check
from ctxcompress_integrations.langchain.retriever import CompressedRetriever  # noqa: E402
from ctxcompress_integrations.langchain.vectorstore import CompressedIndexVectorStore  # noqa: E402

__all__ = ["CompressedIndexVectorStore", "CompressedRetriever", "ContextDocumentCompressor"]
