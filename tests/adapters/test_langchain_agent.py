"""The middleware in an agent of ``langchain``: the model reads pruned results, the state keeps them whole."""

import asyncio
import importlib
import sys

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import create_retriever_tool, tool

from ctxcompress_integrations import TextCompressor
from ctxcompress_integrations.errors import MissingExtraError
from ctxcompress_integrations.langchain import ContextCompressionMiddleware, ContextDocumentCompressor
from ctxcompress_integrations.scorers.lexical import Lexical

QUESTION = "How tall is the tower?"
TEXTS = [
    "The tower stands in Paris. The tower is 330 metres tall. Many people visit it each year. It was built in 1889.",
    "Bananas are yellow. They grow in the tropics. Nobody knows why they are so popular among the people of the north.",
]


class Model(FakeMessagesListChatModel):
    """Asks for a tool, then answers; keeps what it was given."""

    seen: list

    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, *args, **options):
        self.seen.append(messages)
        return super()._generate(messages, *args, **options)


class Found(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=text) for text in TEXTS]


@tool
def clock() -> str:
    """Say the time."""
    return "It is noon. The bells ring. Nobody hears them."


def lexical(**options):
    return ContextDocumentCompressor.from_compressor(TextCompressor(Lexical(), **options))


def asking(*names):
    calls = [
        ToolCall(name=name, args={"query": "tower"} if name == "search" else {}, id=f"c{i}")
        for i, name in enumerate(names)
    ]
    return Model(responses=[AIMessage("", tool_calls=calls), AIMessage("330 metres")], seen=[])


def agent(model, middleware):
    search = create_retriever_tool(Found(), "search", "Search.")
    return create_agent(model, [search, clock], middleware=[middleware])


def results(messages):
    return {m.name: m for m in messages if isinstance(m, ToolMessage)}


@pytest.mark.parametrize("is_async", [False, True])
def test_the_model_reads_pruned_results_and_the_state_keeps_them(is_async):
    model = asking("search", "clock")
    made = agent(model, ContextCompressionMiddleware(lexical(token_budget=12), tool_names=["search"]))
    question = {"messages": [HumanMessage(QUESTION)]}
    state = asyncio.run(made.ainvoke(question)) if is_async else made.invoke(question)
    assert state["messages"][-1].text == "330 metres"
    read, kept = results(model.seen[-1])["search"], results(state["messages"])["search"]
    assert kept.content == "\n\n".join(TEXTS)
    assert "330 metres" in read.content
    assert "Bananas" not in read.content
    assert Lexical().count_tokens(read.content) <= 12
    figures = read.response_metadata["ctxcompress"]
    assert " ".join(kept.content[start:end] for start, end in figures["spans"]) == read.content
    assert (read.tool_call_id, read.id) == (kept.tool_call_id, kept.id)
    assert "ctxcompress" not in kept.response_metadata
    assert results(model.seen[-1])["clock"].content == clock.invoke({})


def test_one_limit_holds_for_all_results():
    model = asking("search", "clock", "search")
    agent(model, ContextCompressionMiddleware(lexical(token_budget=20))).invoke({"messages": [HumanMessage(QUESTION)]})
    read = [m for m in model.seen[-1] if isinstance(m, ToolMessage)]
    assert len(read) == 3  # what nothing was kept of still answers its call
    assert Lexical().count_tokens("\n\n".join(m.content for m in read)) <= 20


def request_of(messages):
    from langchain.agents.middleware import ModelRequest

    return ModelRequest(model=asking(), messages=messages)


def handed_on(middleware, messages):
    return middleware.wrap_model_call(request_of(messages), lambda request: request).messages


def test_blocks_errors_and_what_is_no_text_keep_their_places():
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    blocks = [{"type": "text", "text": TEXTS[0], "id": "b"}, image, TEXTS[1]]
    messages = [
        HumanMessage(QUESTION),
        ToolMessage(blocks, tool_call_id="a", name="search"),
        ToolMessage(TEXTS[0], tool_call_id="b", name="search", status="error"),
        ToolMessage(" ", tool_call_id="c", name="search"),
        AIMessage("So?"),
    ]
    before = [message.model_copy(deep=True) for message in messages]
    found = handed_on(ContextCompressionMiddleware(lexical(token_budget=12)), messages)
    assert messages == before
    first, second = found[1].content  # a block without a text is one that no model takes
    assert (first["id"], second) == ("b", image)
    assert "330 metres" in first["text"]
    assert len(first["text"]) < 0.6 * len(TEXTS[0])
    assert [f["n_chars_in"] for f in found[1].response_metadata["ctxcompress"]] == [len(text) for text in TEXTS]
    assert [found[0], *found[2:]] == [messages[0], *messages[2:]]


def test_results_of_which_nothing_is_kept_still_answer_their_calls():
    messages = [
        HumanMessage(QUESTION),
        ToolMessage([{"type": "text", "text": TEXTS[1]}], tool_call_id="a"),
        ToolMessage([TEXTS[0], {"type": "text", "text": TEXTS[1]}], tool_call_id="b"),
        ToolMessage(TEXTS[1], tool_call_id="c"),
    ]
    found = handed_on(ContextCompressionMiddleware(lexical(token_budget=7)), messages)
    assert [m.content for m in found[1:]] == ["", ["The tower is 330 metres tall."], ""]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [HumanMessage(QUESTION)],
        [ToolMessage(TEXTS[0], tool_call_id="a")],
        [HumanMessage([{"type": "image_url", "image_url": "x"}]), ToolMessage(TEXTS[0], tool_call_id="a")],
    ],
)
def test_without_a_question_or_a_result_nothing_changes(messages):
    assert handed_on(ContextCompressionMiddleware(lexical(keep_ratio=0.3)), messages) == messages


def test_what_fails_is_for_on_error_to_judge():
    class Failing(Lexical):
        def score(self, requests):
            raise RuntimeError("no memory")

    messages = [HumanMessage(QUESTION), ToolMessage(TEXTS[0], tool_call_id="a")]
    failing = TextCompressor(Failing(), keep_ratio=0.3)
    passing = ContextDocumentCompressor.from_compressor(failing, on_error="passthrough")
    assert handed_on(ContextCompressionMiddleware(passing), messages) == messages
    with pytest.raises(RuntimeError, match="no memory"):
        handed_on(ContextCompressionMiddleware(ContextDocumentCompressor.from_compressor(failing)), messages)


def test_wrong_names_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(TypeError, match="wrap it in a list"):
        ContextCompressionMiddleware(tool_names="search")
    ours = importlib.import_module("ctxcompress_integrations.langchain")
    for name in [name for name in sys.modules if name == "langchain" or name.startswith("langchain.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("ctxcompress_integrations._optional.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="agents"):
        _ = ours.ContextCompressionMiddleware
    with pytest.raises(AttributeError, match="'Nonsense'"):
        _ = ours.Nonsense
