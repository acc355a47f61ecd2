"""Context compression for RAG: prune retrieved passages to what the question needs, inside LangChain and LlamaIndex.

Public names load on first use; importing the package loads neither torch nor a host framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxcompress_integrations.compressor import TextCompressor
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.loading import load_compressor
    from ctxcompress_integrations.pipeline import Answer, Pipeline
    from ctxcompress_integrations.readers import load_reader
    from ctxcompress_integrations.records import (
        CompressedPassage,
        CompressionResult,
        Passage,
        Relevance,
        Span,
        SummaryVectors,
    )
    from ctxcompress_integrations.summarizers import load_summarizer

__version__ = "0.1.0"
_HOMES = {
    "Answer": "pipeline",
    "CompressedIndex": "index.compressed_index",
    "CompressedPassage": "records",
    "CompressionResult": "records",
    "Passage": "records",
    "Pipeline": "pipeline",
    "Relevance": "records",
    "Span": "records",
    "SummaryVectors": "records",
    "TextCompressor": "compressor",
    "load_compressor": "loading",
    "load_reader": "readers",
    "load_summarizer": "summarizers",
}
__all__ = [
    "Answer",
    "CompressedIndex",
    "CompressedPassage",
    "CompressionResult",
    "Passage",
    "Pipeline",
    "Relevance",
    "Span",
    "SummaryVectors",
    "TextCompressor",
    "load_compressor",
    "load_reader",
    "load_summarizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
