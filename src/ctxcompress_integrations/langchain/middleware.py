"""``ContextCompressionMiddleware``: what an agent's tools found, pruned on the way to its model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from ctxcompress_integrations.host_figures import KEY
from ctxcompress_integrations.langchain.compressor import ContextDocumentCompressor


class ContextCompressionMiddleware(AgentMiddleware[Any, Any, Any]):
    """Prune the results of an agent's tools to what the latest question needs, before each call of its model.

    One limit holds for all results of a call. The agent's state keeps them whole, so that another question finds all of
    them. Errors, blank results and blocks that are no text pass as they are; blocks of which nothing is kept are left
    out. The figures of the run stand in ``response_metadata["ctxcompress"]`` of each message, as a list where its
    content is one.

    Args:
        compressor: what prunes, and to how much; its ``drop_empty`` plays no part: models want an answer to each of
            their calls.
        tool_names: of the tools whose results are pruned, such as those that retrieve; None for all tools. What must
            arrive whole, JSON for instance, is no text to prune.

    Raises:
        TypeError: ``tool_names`` is one text.
    """

    def __init__(
        self, compressor: ContextDocumentCompressor | None = None, *, tool_names: Collection[str] | None = None
    ) -> None:
        super().__init__()
        if isinstance(tool_names, str):
            raise TypeError(f"tool_names must be a list of names, got {tool_names!r}: wrap it in a list")
        self.compressor = compressor or ContextDocumentCompressor()
        self.tool_names = None if tool_names is None else frozenset(tool_names)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with pruned results."""
        texts, query = self._texts(request.messages), _question(request.messages)
        if texts and query:
            request = _with(request, self._compressor().compress_documents(texts, query))
        return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """As :meth:`wrap_model_call`, off the event loop: concurrent agents share batches."""
        texts, query = self._texts(request.messages), _question(request.messages)
        if texts and query:
            request = _with(request, await self._compressor().acompress_documents(texts, query))
        return await handler(request)

    def _compressor(self) -> ContextDocumentCompressor:
        return self.compressor.model_copy(update={"drop_empty": False})

    def _texts(self, messages: Sequence[AnyMessage]) -> list[Document]:
        """The texts to prune; ids say where they stand: message, and block where the content is a list."""
        return [
            Document(id=f"{number}/{place}", page_content=text)
            for number, message in enumerate(messages)
            if isinstance(message, ToolMessage) and message.status != "error"
            if self.tool_names is None or message.name in self.tool_names
            for place, text in _texts_of(message)
            if text.strip()
        ]


def _question(messages: Sequence[AnyMessage]) -> str:
    """What was asked last; "" when nothing was, or nothing in words."""
    asked = [message for message in messages if isinstance(message, HumanMessage)]
    return asked[-1].text.strip() if asked else ""


def _texts_of(message: ToolMessage) -> Iterator[tuple[int, str]]:
    if isinstance(message.content, str):
        yield 0, message.content
        return
    for place, block in enumerate(message.content):
        if isinstance(block, str):
            yield place, block
        elif block.get("type") == "text":
            yield place, str(block.get("text", ""))


def _with(request: ModelRequest[Any], pruned: Sequence[Document]) -> ModelRequest[Any]:
    """The request with pruned texts in the places that their ids say."""
    of_message: dict[int, dict[int, Document]] = {}
    for document in pruned:
        number, place = map(int, str(document.id).split("/"))
        of_message.setdefault(number, {})[place] = document
    messages = list(request.messages)
    for number, documents in of_message.items():
        messages[number] = _shortened(messages[number], documents)
    return request.override(messages=messages)


def _shortened(message: AnyMessage, documents: dict[int, Document]) -> AnyMessage:
    """A copy with the texts of ``documents``, by the place of their block; no model takes a block without a text."""
    content: Any
    if isinstance(message.content, str):
        content = documents[0].page_content
    else:
        blocks = [_block(b, documents.get(place)) for place, b in enumerate(message.content)]
        content = [block for block in blocks if block is not None] or ""
    figures = [document.metadata[KEY] for document in documents.values() if KEY in document.metadata]
    written = {KEY: figures[0] if isinstance(message.content, str) else figures} if figures else {}
    update = {"content": content, "response_metadata": {**message.response_metadata, **written}}
    return message.model_copy(update=update)


def _block(block: str | dict[str, Any], document: Document | None) -> str | dict[str, Any] | None:
    """A block with what was kept of its text; None when that is nothing."""
    if document is None:
        return block
    text = document.page_content
    return (text if isinstance(block, str) else {**block, "text": text}) if text else None
