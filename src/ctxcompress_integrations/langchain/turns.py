"""LangChain messages and documents as one turn of a reader: texts, and passages between them. No model, no index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda

from ctxcompress_integrations.allocation import Piece, joined
from ctxcompress_integrations.langchain.documents import request_of
from ctxcompress_integrations.pipeline import PROMPT, around
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.text.parts import Part

BLOCK = "ctxcompress_passage"
ROLES = {"system": "System", "human": "User", "ai": "Assistant", "tool": "Tool"}


class Retrieved(NamedTuple):
    """A passage in a message, and the question that it was retrieved for ("" when the message does not say)."""

    passage: Passage
    query: str


Turn: TypeAlias = list[str | Retrieved]


def passage_blocks(documents: Sequence[Document], query: str = "") -> list[str | dict[str, Any]]:
    """Content blocks for retrieved documents, for a :class:`HumanMessage` that a ``ChatSummaryReader`` reads.

    A block holds a document's text, id and metadata, and with it the key of its summary; no tensor.

    Args:
        documents: in the order in which they are numbered for citations.
        query: what they were retrieved for and may be pruned for; the message's own text when it is not given.
    """
    return [
        {"type": BLOCK, "id": d.id or "", "text": d.page_content, "metadata": d.metadata, "query": query}
        for d in documents
    ]


def summary_prompt(prompt: str = PROMPT) -> Runnable[Mapping[str, Any], list[BaseMessage]]:
    """For chains, before a ``ChatSummaryReader``: ``{"documents" or "context": [...], "query" or "question": "..."}``
    in, one message with the documents as passage blocks out.

    Args:
        prompt: with ``{context}``, where the passages stand, and then ``{question}``.

    Raises:
        ValueError: a prompt without the two.
    """
    around((), "", prompt)

    def made(inputs: Mapping[str, Any]) -> list[BaseMessage]:
        documents, query = request_of(inputs)
        before, after = ({"type": "text", "text": text} for text in around((), query, prompt))
        return [HumanMessage(content=[before, *passage_blocks(documents, query), after])]

    return RunnableLambda(made, name="summary_prompt")


def turn_of(messages: Sequence[BaseMessage]) -> Turn:
    """One turn: the content of a single message, or the transcript of several.

    Raises:
        ValueError: no message, or a content block that is neither text nor a passage.
    """
    if not messages:
        raise ValueError("there is no message to answer")
    if len(messages) == 1:
        return list(_content(messages[0]))
    turn: Turn = []
    for message in messages:
        turn += [f"{ROLES.get(message.type, message.type)}: ", *_content(message), "\n\n"]
    return [*turn, "Assistant:"]


def retrieved_in(turn: Turn) -> tuple[list[Passage], str]:
    """The passages of a turn, and what they are pruned for: what the last of them was retrieved for, or its texts."""
    retrieved = [part for part in turn if isinstance(part, Retrieved)]
    text = "".join(part for part in turn if isinstance(part, str)).strip()
    asked = [
        query for part in retrieved[-1:] for query in (part.query, text, part.passage.text) if query and query.strip()
    ]
    return [part.passage for part in retrieved], asked[0] if asked else ""


def with_pieces(turn: Turn, pieces: Iterable[Piece]) -> list[Part]:
    """The turn as a reader gets it, with the pieces of its passages, in order, in their places."""
    parts: list[Part] = []
    left = iter(pieces)
    for is_text, run in groupby(turn, lambda part: isinstance(part, str)):
        of_run = list(run)
        parts += ["".join(map(str, of_run))] if is_text else joined([next(left) for _ in of_run])
    return parts


def _content(message: BaseMessage) -> Iterator[str | Retrieved]:
    for block in [message.content] if isinstance(message.content, str) else message.content:
        if isinstance(block, str):
            yield block
        elif block.get("type") == "text":
            yield str(block["text"])
        elif block.get("type") == BLOCK:
            passage = Passage(block.get("id", ""), block["text"], metadata=block.get("metadata", {}))
            yield Retrieved(passage, block.get("query", ""))
        else:
            raise ValueError(
                f"a content block of the type {block.get('type')!r} cannot be read; give text, or documents through "
                "passage_blocks()"
            )
