"""``ChatSummaryReader``: a local reader of text and summary vectors where LangChain expects a chat model.

A passage travels through LangChain as a content block of its own type with its text and, when an index holds one, the
key of its summary; the vectors are taken from the index when the model is called. Plain fields hold the configuration;
reader and index open on first use.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Self
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from ctxcompress_integrations.host_reading import ReaderKey, Reading, shared_reader
from ctxcompress_integrations.index.building import Summarizes
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor
from ctxcompress_integrations.langchain.turns import retrieved_in, turn_of, with_pieces
from ctxcompress_integrations.readers.base import Part, Reader

_OPENING = threading.Lock()
_UNUSED = {"api_key", "base_url", "max_retries", "streaming", "timeout"}


class ChatSummaryReader(BaseChatModel):
    """Answer from retrieved passages, each as full text, pruned text or summary vectors, under one budget.

    Without passage blocks it is an ordinary text chat model; a conversation is read as its transcript.

    Attributes:
        model: hub name or folder of the reader.
        adapters: LoRA adapters by the name under which the index records them.
        device, dtype: as for :func:`~ctxcompress_integrations.load_reader`.
        index: directory that holds the summaries, opened to read only.
        budget: reader positions for the passages of one request, in whichever messages; None for vectors wherever there
            are any.
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
    _given: str | None = PrivateAttr(default=None)

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
        made._reader, made._index, made._on_miss, made._given = reader, index, on_miss, uuid4().hex
        return made

    @property
    def _llm_type(self) -> str:
        return "ctxcompress-summary-reader"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What answers depend on: LangChain's cache of answers goes by it."""
        ours = set(ChatSummaryReader.model_fields) - set(BaseChatModel.model_fields)
        fields = {name: getattr(self, name) for name in sorted(ours)}
        fields["compressor"] = {name: getattr(self.compressor, name) for name in type(self.compressor).model_fields}
        return {**fields, "built": (self._given, self.compressor._source().token)}

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
        parts = await self._aparts(messages)
        return self._result(parts, await self._read().agenerate(parts, **self._limits(stop, kwargs)))

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
        yield self._end(parts, text)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        parts, text = await self._aparts(messages), ""
        async for piece in self._read().astream(parts, **self._limits(stop, kwargs)):
            text += piece
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                await run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield await asyncio.to_thread(self._end, parts, text)

    def _end(self, parts: Sequence[Part], text: str) -> ChatGenerationChunk:
        message = AIMessageChunk(content="", chunk_position="last", **self._figures(parts, text))
        return ChatGenerationChunk(message=message)

    def get_num_tokens(self, text: str) -> int:
        """Tokens of ``text`` in the reader's vocabulary, where it is known."""
        reader = self._read()
        return reader.count_tokens(text) if reader.counts_tokens else super().get_num_tokens(text)

    def _parts(self, messages: Sequence[BaseMessage]) -> list[Part]:
        """The messages as one turn, with all passages in it in the forms that one budget leaves them."""
        turn = turn_of(messages)
        passages, query = retrieved_in(turn)
        return with_pieces(turn, self._reading().arrange(passages, query).pieces if passages else ())

    async def _aparts(self, messages: Sequence[BaseMessage]) -> list[Part]:
        turn = turn_of(messages)
        passages, query = retrieved_in(turn)
        if not passages:
            await asyncio.to_thread(self._read)
            return with_pieces(turn, ())
        reading = await asyncio.to_thread(self._reading)
        return with_pieces(turn, (await reading.aarrange(passages, query)).pieces)

    def _reading(self) -> Reading:
        return Reading(self._read(), self._opened(), self.compressor._loaded, self.budget, self._on_miss)

    def _read(self) -> Reader:
        if self._reader is None:
            adapters = tuple(sorted(self.adapters.items()))
            self._reader = shared_reader(ReaderKey(self.model, self.device, self.dtype, adapters))
        return self._reader

    def _opened(self) -> CompressedIndex | None:
        with _OPENING:
            if self._index is None and self.index is not None:
                self._index = CompressedIndex.open(self.index, read_only=True)
            return self._index

    def _limits(self, stop: list[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
        wanted = given.get("max_tokens")
        return {"max_new_tokens": self.max_tokens if wanted is None else wanted, "stop": stop or self.stop or []}

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
        made = {"_reader": None, "_index": None, "_on_miss": None, "_given": None}
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**(state["__pydantic_private__"] or {}), **made}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """The fields are copied; the reader, the index and the summarizer are shared."""
        copied = self.__copy__()
        for name, value in self.__dict__.items():
            copied.__dict__[name] = copy.deepcopy(value, memo)
        return copied
