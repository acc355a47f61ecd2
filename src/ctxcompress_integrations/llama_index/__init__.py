"""LlamaIndex: a node postprocessor, a retriever that compresses, and a vector store over ``CompressedIndex``."""

from __future__ import annotations

from ctxcompress_integrations._optional import check

check("llama_index", extra="llama-index")

from ctxcompress_integrations.llama_index.postprocessor import ContextNodePostprocessor  # noqa: E402 - after the check
from ctxcompress_integrations.llama_index.retriever import CompressedRetriever  # noqa: E402
from ctxcompress_integrations.llama_index.vector_store import CompressedIndexVectorStore  # noqa: E402

__all__ = ["CompressedIndexVectorStore", "CompressedRetriever", "ContextNodePostprocessor"]
