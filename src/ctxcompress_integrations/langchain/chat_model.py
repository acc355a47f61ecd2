"""``ChatSummaryReader``: a local reader of text and summary vectors where LangChain expects a chat model.

A passage travels through LangChain as a content block of its own type with its text and, when an index holds one, the
key of its summary; the vectors are taken from the index when the model is called. Plain fields hold the configuration;
reader and index open on first use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from ctxcompress_integrations.host_reading import ReaderKey, arrange, shared_reader
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

    @model_validator(mode="before")
    @classmethod
    def _without_standard_arguments(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in _UNUSED}

    @classmethod
    def from_reader(cls, reader: Reader, *, index: CompressedIndex | None = None, **fields: Any) -> Self:
        """Around a built reader and an open index, with the other fields; a pickle keeps the fields alone."""
        made = cls(**fields)
        made._reader, made._index = reader, index
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
        parts, max_tokens = self._parts(messages), kwargs.get("max_tokens", self.max_tokens)
        return self._result(parts, self._read().generate(parts, max_new_tokens=max_tokens, stop=self._stop(stop)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        parts, max_tokens = await asyncio.to_thread(self._parts, messages), kwargs.get("max_tokens", self.max_tokens)
        text = await self._read().agenerate(parts, max_new_tokens=max_tokens, stop=self._stop(stop))
        return self._result(parts, text)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        parts, max_tokens = self._parts(messages), kwargs.get("max_tokens", self.max_tokens)
        text = ""
        for piece in self._read().stream(parts, max_new_tokens=max_tokens, stop=self._stop(stop)):
            text += piece
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        end = AIMessageChunk(
            content="",
            usage_metadata=self._usage(parts, text),
            response_metadata=self._metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=end)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        pieces = self._stream(messages, stop, None, **kwargs)
        while (chunk := await asyncio.to_thread(next, pieces, None)) is not None:
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
            yield chunk

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
            compressor=self.compressor._lazy.get(),
            budget=self.budget,
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

    def _stop(self, stop: list[str] | None) -> list[str]:
        return stop or self.stop or []

    @property
    def _metadata(self) -> dict[str, Any]:
        return {"model_name": self.model or type(self._reader).__name__}

    def _usage(self, parts: Sequence[Part], text: str) -> UsageMetadata | None:
        if not self._read().counts_tokens:
            return None
        n_in, n_out = self._read().positions(parts), self._read().count_tokens(text)
        return UsageMetadata(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out)

    def _result(self, parts: Sequence[Part], text: str) -> ChatResult:
        message = AIMessage(content=text, usage_metadata=self._usage(parts, text), response_metadata=self._metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {"_reader": None, "_index": None}}
