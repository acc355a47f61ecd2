"""LangChain documents and our passages: conversion in and out, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from langchain_core.documents import Document

from ctxcompress_integrations.host_figures import with_run
from ctxcompress_integrations.records import CompressionResult, Passage


def to_passages(documents: Sequence[Document]) -> list[Passage]:
    """Passages numbered by position: documents may lack an id or share one."""
    return [Passage(str(i), d.page_content, metadata=d.metadata) for i, d in enumerate(documents)]


def from_result(documents: Sequence[Document], result: CompressionResult, *, drop_empty: bool) -> list[Document]:
    """Copies of the documents with the kept texts and the run's figures."""
    pairs = zip(documents, result.passages, strict=True)
    return [
        d.model_copy(update={"page_content": p.text, "metadata": with_run(deepcopy(d.metadata), result, p)})
        for d, p in pairs
        if not (drop_empty and p.is_empty)
    ]


def request_of(inputs: Mapping[str, Any]) -> tuple[Sequence[Document], str]:
    """Documents and query of a chain's input, under the names that chains use.

    Raises:
        TypeError: the input is no mapping, or the documents are something else.
        ValueError: one of the two is missing.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(f"needs {{'documents': [...], 'query': '...'}}, got {type(inputs).__name__}: {inputs!r:.80}")
    documents = inputs.get("documents", inputs.get("context"))
    query = inputs.get("query", inputs.get("question", inputs.get("input")))
    if documents is None or query is None:
        raise ValueError(
            f"needs 'documents' (or 'context') and 'query' (or 'question', 'input'), got the keys {list(inputs)}"
        )
    found = list(documents)
    if not all(isinstance(document, Document) for document in found):
        raise TypeError(f"documents must be a list of Document, got {documents!r:.80}: wrap texts, Document(text)")
    return found, query
