"""LlamaIndex nodes and our passages: conversion in and out, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from ctxcompress_integrations.host_figures import KEY, with_run
from ctxcompress_integrations.records import CompressedPassage, CompressionResult, Passage


def to_passages(nodes: Sequence[NodeWithScore]) -> dict[int, Passage]:
    """Position -> passage for the nodes that hold text; the others (images, say) are not ours to change."""
    return {
        i: Passage(str(i), text, scored.score, scored.node.metadata)
        for i, scored in enumerate(nodes)
        if (text := scored.node.get_content(MetadataMode.NONE))
    }


def from_result(
    nodes: Sequence[NodeWithScore], positions: Sequence[int], result: CompressionResult, *, drop_empty: bool
) -> list[NodeWithScore]:
    """New nodes with the kept texts, in order; nodes without text pass as they are."""
    kept = dict(zip(positions, result.passages, strict=True))
    found = []
    for i, scored in enumerate(nodes):
        passage = kept.get(i)
        if passage is None:
            found.append(scored.model_copy(update={"node": _copied(scored.node)}))
        elif not (drop_empty and passage.is_empty):
            found.append(NodeWithScore(node=_shortened(scored.node, passage, result), score=scored.score))
    return found


def _shortened(node: BaseNode, passage: CompressedPassage, result: CompressionResult) -> BaseNode:
    """A copy of the same kind, id, relationships and metadata; the figures cost neither LLM nor embedder a token."""
    copy = _copied(node)
    copy.set_content(passage.text)
    copy.metadata = with_run(copy.metadata, result, passage)
    hide(copy)
    return copy


def _copied(node: BaseNode) -> BaseNode:
    """A deep copy, but for the ``obj`` of an ``IndexNode``: an engine or a retriever may hold what cannot be copied."""
    obj = getattr(node, "obj", None)
    return deepcopy(node, {id(obj): obj})


def hide(node: BaseNode) -> None:
    """Keep what the package wrote into a node of its own from LLM and embedder."""
    node.excluded_llm_metadata_keys = _with_key(node.excluded_llm_metadata_keys)
    node.excluded_embed_metadata_keys = _with_key(node.excluded_embed_metadata_keys)


def _with_key(keys: list[str]) -> list[str]:
    return keys if KEY in keys else [*keys, KEY]
