"""LlamaIndex: a node postprocessor, a compressing retriever, a vector store over ``CompressedIndex``, and a synthesizer
that reads summary vectors.
"""

from __future__ import annotations

from ctxcompress_integrations._optional import check

check("llama_index", extra="llama-index")

from ctxcompress_integrations.llama_index.postprocessor import ContextNodePostprocessor  # noqa: E402 - after the check
from ctxcompress_integrations.llama_index.retriever import CompressedRetriever  # noqa: E402
from ctxcompress_integrations.llama_index.synthesizer import SummarySynthesizer  # noqa: E402
from ctxcompress_integrations.llama_index.vector_store import CompressedIndexVectorStore  # noqa: E402

__all__ = ["CompressedIndexVectorStore", "CompressedRetriever", "ContextNodePostprocessor", "SummarySynthesizer"]
