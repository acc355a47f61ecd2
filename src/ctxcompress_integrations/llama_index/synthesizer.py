"""``SummarySynthesizer``: a local reader of text and summary vectors where LlamaIndex expects a response synthesizer.

Works inside ``RetrieverQueryEngine``. LlamaIndex hands a synthesizer flattened texts; this one takes the nodes beside
them, because their ids and metadata say which of them have summary vectors in the index.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers.base import BaseSynthesizer
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.types import RESPONSE_TEXT_TYPE

from ctxcompress_integrations.host_reading import Reading
from ctxcompress_integrations.index.building import Summarizes
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.llama_index.postprocessor import ContextNodePostprocessor
from ctxcompress_integrations.pipeline import PROMPT, around
from ctxcompress_integrations.readers.base import Part, Reader
from ctxcompress_integrations.records import Passage


class SummarySynthesizer(BaseSynthesizer):
    """Answer from retrieved nodes, each as full text, pruned text or summary vectors, under one budget.

    Args:
        reader: what answers, as :func:`~ctxcompress_integrations.load_reader` loads it.
        index: that holds the summaries whose keys the nodes carry; None to read text alone.
        budget: reader positions for the nodes of one question; None for vectors wherever there are any.
        on_miss: summarizer for nodes that were added or changed since summaries were built.
        compressor: whose fields say what ranks and prunes nodes under a budget.
        prompt: with ``{context}``, where the nodes stand, and then ``{question}``.
        max_new_tokens: longest answer.
        streaming: answers come piece by piece.
        callback_manager: told of each synthesis.
        empty_response: the answer to a question for which nothing was found.
    """

    def __init__(
        self,
        reader: Reader,
        index: CompressedIndex | None = None,
        *,
        budget: int | None = None,
        on_miss: Summarizes | None = None,
        compressor: ContextNodePostprocessor | None = None,
        prompt: str = PROMPT,
        max_new_tokens: int = 256,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
        empty_response: str | None = None,
    ) -> None:
        super().__init__(
            llm=MockLLM(),  # the base class wants one, and would look for a hosted one
            callback_manager=callback_manager,
            streaming=streaming,
            empty_response=empty_response,
        )
        around((), "", prompt)  # complains before anything is asked
        self.reader, self.index, self.budget = reader, index, budget
        self.on_miss, self.prompt, self.max_new_tokens = on_miss, prompt, max_new_tokens
        self._compressor = compressor or ContextNodePostprocessor()

    def synthesize(
        self,
        query: str | QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        return super().synthesize(query, nodes, additional_source_nodes, found=nodes, **response_kwargs)

    async def asynthesize(
        self,
        query: str | QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        return await super().asynthesize(query, nodes, additional_source_nodes, found=nodes, **response_kwargs)

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        found: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        allocation = self._reading.arrange(_passages(text_chunks, found), query_str)
        parts = around(allocation.parts, query_str, self.prompt)
        if self._streaming:
            return self._stream(parts)
        return self.reader.generate(parts, max_new_tokens=self.max_new_tokens)

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        found: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        allocation = await self._reading.aarrange(_passages(text_chunks, found), query_str)
        parts = around(allocation.parts, query_str, self.prompt)
        if self._streaming:
            return self.reader.astream(parts, max_new_tokens=self.max_new_tokens)
        return await self.reader.agenerate(parts, max_new_tokens=self.max_new_tokens)

    @property
    def _reading(self) -> Reading:
        return Reading(self.reader, self.index, self._compressor._loaded, self.budget, self.on_miss)

    def _stream(self, parts: Sequence[Part]) -> Generator[str, None, None]:
        yield from self.reader.stream(parts, max_new_tokens=self.max_new_tokens)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        pass


def _passages(text_chunks: Sequence[str], found: Sequence[NodeWithScore] | None) -> list[Passage]:
    """The nodes, or the texts of a caller who has no nodes."""
    if found is None:
        return [Passage("", text) for text in text_chunks]
    return [Passage(n.node.node_id, n.node.get_content(MetadataMode.NONE), n.score, n.node.metadata) for n in found]
