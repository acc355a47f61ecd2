"""``ChatSummaryReader``: a local reader of text and summary vectors where LangChain expects a chat model.

A passage travels through LangChain as a content block of its own type with its text and, when an index holds one, the
key of its summary; the vectors are taken from the index when the model is called. Plain fields hold the configuration;
reader and index open on first use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from ctxcompress_integrations.host_reading import ReaderKey, arrange, shared_reader
from ctxcompress_integrations.index.building import Summarizes
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor
from ctxcompress_integrations.langchain.turns import Retrieved, runs_of, turn_of
from ctxcompress_integrations.readers.base import Part, Reader

_UNUSED = {"api_key", "base_url", "max_retries", "streaming", "timeout"}


class ChatSummaryReader(BaseChatModel):
    """Answer from retrieved passages, each as full text, pruned text or summary vectors, under one budget.

    Without passage blocks it is an ordinary text chat model; a conversation is read as its transcript.

    Attributes:
        model: hub name or folder of the reader.
        adapters: LoRA adapters by the name under which the index records them.
        device, dtype: as for :func:`~ctxcompress_integrations.load_reader`.
        index: directory that holds the summaries, opened to read only.
        budget: reader positions for the passages of one request; None for vectors wherever there are any.
        compressor: what ranks and prunes passages under a budget.
        max_tokens: longest answer.
        stop: texts that end the answer and are left out.
        temperature: 0, as readers are greedy. What else LangChain gives every chat model (``api_key``, ``timeout`` ...)
            is taken and not used.

    Raises:
        SummaryMismatchError: the summaries were made for another reader or adapter.
        ValueError: a content block that is neither text nor a passage.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    adapters: dict[str, str] = Field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    index: str | None = None
    budget: int | None = Field(default=None, ge=1)
    compressor: ContextDocumentCompressor = Field(default_factory=ContextDocumentCompressor)
    max_tokens: int = Field(default=256, ge=1)
    stop: list[str] | None = None
    temperature: float = Field(default=0.0, ge=0.0, le=0.0)

    _reader: Reader | None = PrivateAttr(default=None)
    _index: CompressedIndex | None = PrivateAttr(default=None)
    _on_miss: Summarizes | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _without_standard_arguments(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in _UNUSED}

    @classmethod
    def from_reader(
        cls,
        reader: Reader,
        *,
        index: CompressedIndex | None = None,
        on_miss: Summarizes | None = None,
        **fields: Any,
    ) -> Self:
        """Around a built reader and an open index, with the other fields; a pickle keeps the fields alone.

        ``on_miss`` makes the vectors of passages that were added or changed since summaries were built.
        """
        made = cls(**fields)
        made._reader, made._index, made._on_miss = reader, index, on_miss
        return made

    @property
    def _llm_type(self) -> str:
        return "ctxcompress-summary-reader"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model": self.model, "adapters": self.adapters, "index": self.index, "budget": self.budget}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        parts = self._parts(messages)
        return self._result(parts, self._read().generate(parts, **self._limits(stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reader, parts = await asyncio.to_thread(lambda: (self._read(), self._parts(messages)))
        return self._result(parts, await reader.agenerate(parts, **self._limits(stop, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        parts, text = self._parts(messages), ""
        for piece in self._read().stream(parts, **self._limits(stop, kwargs)):
            text += piece
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        end = AIMessageChunk(content="", chunk_position="last", **self._figures(parts, text))
        yield ChatGenerationChunk(message=end)

    def _parts(self, messages: Sequence[BaseMessage]) -> list[Part]:
        """The messages as one turn, with each run of passages in the forms that they are read in."""
        parts: list[Part] = []
        turn = turn_of(messages)
        text = "".join(part for part in turn if isinstance(part, str)).strip()
        for run in runs_of(turn):
            parts += [run] if isinstance(run, str) else self._arranged(run, text)
        return parts

    def _arranged(self, retrieved: Sequence[Retrieved], text: str) -> Sequence[Part]:
        allocation = arrange(
            [passage for passage, _ in retrieved],
            retrieved[0].query or text or retrieved[0].passage.text,
            reader=self._read(),
            index=self._opened(),
            compressor=self.compressor._loaded(),
            budget=self.budget,
            on_miss=self._on_miss,
        )
        return allocation.parts

    def _read(self) -> Reader:
        if self._reader is None:
            adapters = tuple(sorted(self.adapters.items()))
            self._reader = shared_reader(ReaderKey(self.model, self.device, self.dtype, adapters))
        return self._reader

    def _opened(self) -> CompressedIndex | None:
        if self._index is None and self.index is not None:
            self._index = CompressedIndex.open(self.index, read_only=True)
        return self._index

    def _limits(self, stop: list[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"max_new_tokens": given.get("max_tokens", self.max_tokens), "stop": stop or self.stop or []}

    def _figures(self, parts: Sequence[Part], text: str) -> dict[str, Any]:
        """What a message says of its making."""
        reader, usage = self._read(), None
        if reader.counts_tokens:
            n_in, n_out = reader.positions(parts), reader.count_tokens(text)
            usage = UsageMetadata(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out)
        return {"usage_metadata": usage, "response_metadata": {"model_name": self.model or type(reader).__name__}}

    def _result(self, parts: Sequence[Part], text: str) -> ChatResult:
        message = AIMessage(content=text, **self._figures(parts, text))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {"_reader": None, "_index": None, "_on_miss": None}}
