"""The LlamaIndex side inside real query engines, with a mock LLM that records its prompt."""

import asyncio
import pickle
import threading

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import CustomLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from ctxcompress_integrations import TextCompressor
from ctxcompress_integrations.llama_index import (
    CompressedIndexVectorStore,
    CompressedRetriever,
    ContextNodePostprocessor,
)
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.testing import NodePostprocessorConformance

QUERY = "How tall is the tower?"
TEXTS = [
    "The tower stands in Paris. The tower is 330 metres tall. Many people visit it each year.",
    "Bananas are yellow. They grow in the tropics. Nobody knows why.",
]


class Recorder(CustomLLM):
    """Answers every prompt with "fine" and keeps the prompts."""

    prompts: list[str]

    @property
    def metadata(self):
        return LLMMetadata(context_window=8000)

    def complete(self, prompt, formatted=False, **kwargs):
        self.prompts.append(prompt)
        return CompletionResponse(text="fine")

    async def acomplete(self, prompt, formatted=False, **kwargs):
        return self.complete(prompt)

    def stream_complete(self, prompt, formatted=False, **kwargs):
        yield CompletionResponse(text=self.complete(prompt).text, delta="fine")


class Hashed(BaseEmbedding):
    """Deterministic bag of words."""

    def _get_text_embedding(self, text):
        vector = np.zeros(32)
        for word in text.lower().split():
            vector[sum(map(ord, word)) % 32] += 1
        return (vector + 0.01).tolist()

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


def nodes():
    made = [TextNode(text=text, id_=f"n{i}", metadata={"page": i}) for i, text in enumerate(TEXTS)]
    made[0].relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="doc-1")
    return [NodeWithScore(node=node, score=0.9 - i / 10) for i, node in enumerate(made)]


@pytest.fixture
def postprocessor():
    return ContextNodePostprocessor.from_compressor(TextCompressor(Lexical(), keep_ratio=0.4))


class TestConformance(NodePostprocessorConformance):
    @pytest.fixture
    def postprocessor(self):
        return ContextNodePostprocessor(method="lexical", keep_ratio=0.3, drop_empty=False)


@pytest.fixture
def engine(postprocessor):
    index = VectorStoreIndex(nodes=[n.node for n in nodes()], embed_model=Hashed())
    llm = Recorder(prompts=[])
    retriever = index.as_retriever(similarity_top_k=2)
    return RetrieverQueryEngine.from_args(retriever, llm=llm, node_postprocessors=[postprocessor]), llm


def check_prompt(prompts):
    assert len(prompts) == 1
    assert "The tower is 330 metres tall." in prompts[0]
    assert "tropics" not in prompts[0]
    assert "keep_ratio" not in prompts[0], "the figures must not cost the LLM tokens"


def test_query_engine_sends_the_compressed_text(engine):
    answer = engine[0].query(QUERY)
    check_prompt(engine[1].prompts)
    assert answer.source_nodes[0].node.metadata["ctxcompress"]["n_tokens_out"] > 0


async def test_async_query_engine(engine):
    await engine[0].aquery(QUERY)
    check_prompt(engine[1].prompts)


def test_retriever_wraps_any_retriever(postprocessor):
    index = VectorStoreIndex(nodes=[n.node for n in nodes()], embed_model=Hashed())
    retriever = CompressedRetriever(index.as_retriever(similarity_top_k=2), postprocessor)
    found = retriever.retrieve(QUERY)
    assert "330 metres" in found[0].node.get_content()
    assert [n.node.get_content() for n in asyncio.run(retriever.aretrieve(QUERY))] == [
        n.node.get_content() for n in found
    ]


def test_relationships_scores_and_offsets_survive_and_inputs_stay(postprocessor):
    given = nodes()
    before = [n.model_dump_json() for n in given]
    found = postprocessor.postprocess_nodes(given, query_str=QUERY)
    assert [n.model_dump_json() for n in given] == before
    node = found[0].node
    assert (node.node_id, found[0].score, node.metadata["page"]) == ("n0", 0.9, 0)
    assert node.relationships == given[0].node.relationships
    start, end = node.metadata["ctxcompress"]["spans"][0]
    assert TEXTS[0][start:end] in node.get_content()


def test_nodes_without_text_pass(postprocessor):
    image = NodeWithScore(node=ImageNode(image_path="x.png", id_="image"), score=0.1)
    found = postprocessor.postprocess_nodes([*nodes(), image], query_str=QUERY)
    assert found[-1].node.node_id == "image" or found[-1].node.get_content() == ""


def test_what_was_kept_is_found_in_the_source_document(postprocessor):
    source = f"A title. {TEXTS[0]}"
    node = TextNode(text=TEXTS[0], start_char_idx=9, end_char_idx=len(source))
    found = postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)[0].node
    pieces = [(found.start_char_idx + a, found.start_char_idx + b) for a, b in found.metadata["ctxcompress"]["spans"]]
    assert " ".join(source[a:b] for a, b in pieces) == found.text != node.text
    assert found.end_char_idx == len(source)


def test_what_was_kept_twice_is_found_in_the_source_document():
    text = "Cats sleep all day. Rain fell in May.\n\nThe tower is 330 metres tall. It was built in 1889."
    found = [NodeWithScore(node=TextNode(text=text, start_char_idx=5, end_char_idx=5 + len(text)))]
    for keep_ratio, query in ((0.6, "tower metres built 1889"), (0.5, "tower metres tall")):
        postprocessor = ContextNodePostprocessor(method="lexical", keep_ratio=keep_ratio)
        found = postprocessor.postprocess_nodes(found, query_str=query)
    node = found[0].node
    assert [text[a:b] for a, b in node.metadata["ctxcompress"]["spans"]] == [node.text]
    assert node.start_char_idx == 5


def test_every_kind_of_node_with_text_is_compressed_and_keeps_its_kind(postprocessor):
    image = MediaResource(data=b"aGk=", mimetype="image/png")
    given = [
        Document(text=TEXTS[0], id_="document"),
        Node(text_resource=MediaResource(text=TEXTS[0]), image_resource=image, id_="node"),
        ImageNode(text=TEXTS[0], image="aGk=", id_="image"),
        IndexNode(text=TEXTS[0], index_id="elsewhere", id_="index"),
        Node(image_resource=image, id_="no text"),
    ]
    before = [node.model_dump_json() for node in given]
    found = [n.node for n in postprocessor.postprocess_nodes([NodeWithScore(node=n) for n in given], query_str=QUERY)]
    assert [node.model_dump_json() for node in given] == before
    assert [(type(node), node.node_id) for node in found] == [(type(node), node.node_id) for node in given]
    assert {node.get_content() for node in found[:4]} == {"The tower is 330 metres tall."}
    assert found[1].image_resource == image
    assert found[4] == given[4]


class Engine:
    """What an ``IndexNode`` may stand for: it cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()


@pytest.mark.parametrize("text", [TEXTS[0], ""])
def test_what_an_index_node_stands_for_is_handed_on(postprocessor, text):
    given = NodeWithScore(node=IndexNode(text=text, index_id="elsewhere", obj=Engine(), metadata={"k": [1]}), score=0.5)
    (found,) = postprocessor.postprocess_nodes([given], query_str=QUERY)
    assert found.node.obj is given.node.obj
    found.node.metadata["k"].append(2)
    assert (given.node.text, given.node.metadata) == (text, {"k": [1]})


def test_figures_are_hidden_once(postprocessor):
    once = postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    node = postprocessor.postprocess_nodes(once, query_str=QUERY)[0].node
    assert node.excluded_llm_metadata_keys == node.excluded_embed_metadata_keys == ["ctxcompress"]


def test_missing_query_and_unknown_fields_are_errors(postprocessor):
    with pytest.raises(ValueError, match="query"):
        postprocessor.postprocess_nodes(nodes())
    with pytest.raises(ValueError, match="keep_ration"):
        ContextNodePostprocessor(keep_ration=0.5)
    with pytest.raises(ValueError, match=r"2\.0"):
        ContextNodePostprocessor(keep_ratio=2.0)
    with pytest.raises(ValueError, match="exactly one"):
        ContextNodePostprocessor(keep_ratio=0.5, token_budget=10)


def test_configuration_survives_dict_json_and_pickle():
    made = ContextNodePostprocessor(method="lexical", token_budget=9, unit="phrase", protect=["numbers"])
    want = [n.node.get_content() for n in made.postprocess_nodes(nodes(), query_str=QUERY)]
    for copy in (
        ContextNodePostprocessor.from_dict(made.to_dict()),
        ContextNodePostprocessor.from_json(made.to_json()),
        pickle.loads(pickle.dumps(made)),
        made.model_copy(deep=True),
    ):
        assert (copy.method, copy.token_budget, copy.unit, copy.protect) == ("lexical", 9, "phrase", ["numbers"])
        assert [n.node.get_content() for n in copy.postprocess_nodes(nodes(), query_str=QUERY)] == want


def test_an_assigned_field_counts_from_then_on():
    made = ContextNodePostprocessor(method="lexical", keep_ratio=0.9)
    made.postprocess_nodes(nodes(), query_str=QUERY)
    made.keep_ratio = 0.1
    want = ContextNodePostprocessor(method="lexical", keep_ratio=0.1).postprocess_nodes(nodes(), query_str=QUERY)
    assert [n.text for n in made.postprocess_nodes(nodes(), query_str=QUERY)] == [n.text for n in want]
    with pytest.raises(ValueError, match="got 7"):
        made.keep_ratio = 7


def test_a_component_around_a_compressor_is_not_written(postprocessor):
    assert postprocessor.method == "lexical"
    for write in (pickle.dumps, ContextNodePostprocessor.to_dict, ContextNodePostprocessor.to_json):
        with pytest.raises((TypeError, ValueError), match="made from a compressor object"):
            write(postprocessor)


class Failing(Lexical):
    def score(self, requests):
        raise RuntimeError("out of memory")


async def test_on_error(caplog):
    compressor = TextCompressor(Failing(), keep_ratio=0.5)
    with pytest.raises(RuntimeError, match="out of memory"):
        ContextNodePostprocessor.from_compressor(compressor).postprocess_nodes(nodes(), query_str=QUERY)
    lenient = ContextNodePostprocessor.from_compressor(compressor, on_error="passthrough")
    assert [n.node.get_content() for n in lenient.postprocess_nodes(nodes(), query_str=QUERY)] == TEXTS
    assert len(await lenient.apostprocess_nodes(nodes(), QueryBundle(QUERY))) == 2
    assert "out of memory" in caplog.text


class Titles(Lexical):
    def score(self, requests):
        self.seen = [list(request.titles) for request in requests]
        return super().score(requests)


def test_scorers_see_titles():
    scorer, given = Titles(), nodes()
    given[1].node.metadata["title"] = "Bananas"
    made = ContextNodePostprocessor.from_compressor(TextCompressor(scorer, keep_ratio=0.4))
    made.postprocess_nodes(given, query_str=QUERY)
    assert scorer.seen == [["", "Bananas"]]


def test_instrumentation_events_fire(postprocessor):
    seen = []

    class Handler(BaseEventHandler):
        @classmethod
        def class_name(cls):
            return "Handler"

        def handle(self, event, **kwargs):
            seen.append(event)

    dispatcher = get_dispatcher()
    handler = Handler()
    dispatcher.add_event_handler(handler)
    postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    dispatcher.event_handlers.remove(handler)
    ours = [event for event in seen if event.class_name().startswith("Compression")]
    assert [event.class_name() for event in ours] == ["CompressionStartEvent", "CompressionEndEvent"]
    assert 0 < ours[1].n_tokens_out < ours[1].n_tokens_in


async def test_concurrent_requests_share_batches():
    class Counting(Lexical):
        n_calls = 0

        def score(self, requests):
            Counting.n_calls += 1
            return super().score(requests)

    made = ContextNodePostprocessor.from_compressor(TextCompressor(Counting(), keep_ratio=0.4, cache_size=0))
    await asyncio.gather(*(made.apostprocess_nodes(nodes(), QueryBundle(f"{QUERY} {i}")) for i in range(16)))
    assert Counting.n_calls < 16


@pytest.fixture
def store(tmp_path):
    store = CompressedIndexVectorStore(tmp_path / "li.index")
    yield store
    store.close()


def documents():
    return [Document(text=text, id_=f"doc{i}", metadata={"page": i, "lang": "en"}) for i, text in enumerate(TEXTS)]


def test_store_round_trip_through_an_index(store, tmp_path):
    storage = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(documents(), storage_context=storage, embed_model=Hashed())
    store.persist(str(tmp_path / "x"))
    store.close()
    again = CompressedIndexVectorStore(store.path)
    index = VectorStoreIndex.from_vector_store(again, embed_model=Hashed())
    best = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[1])[0]
    assert best.node.get_content() == TEXTS[1]
    assert best.node.ref_doc_id == "doc1"
    assert 0.8 < best.score <= 1.0  # a cosine; the stored vector also saw the metadata
    again.delete("doc1")
    assert [n.ref_doc_id for n in again.get_nodes()] == ["doc0"]
    assert len(index.as_retriever(similarity_top_k=5, vector_store_query_mode="mmr").retrieve("tower")) == 1
    again.clear()
    assert again.get_nodes() == []
    again.close()


@pytest.mark.parametrize(
    ("operator", "value", "pages"),
    [("==", 1, [1]), ("!=", 1, [0]), (">", 0, [1]), ("<=", 0, [0]), ("in", [0, 1], [0, 1]), ("nin", [0], [1])],
)
async def test_filters(store, operator, value, pages):
    made = [n.node for n in nodes()]
    for node in made:
        node.embedding = Hashed().get_text_embedding(node.text)
    await store.async_add(made)
    filters = MetadataFilters(filters=[MetadataFilter(key="page", value=value, operator=operator)])
    vector = Hashed().get_text_embedding("tower")
    result = await store.aquery(VectorStoreQuery(query_embedding=vector, similarity_top_k=5, filters=filters))
    assert sorted(node.metadata["page"] for node in result.nodes) == pages
    assert sorted(n.metadata["page"] for n in store.get_nodes(filters=filters)) == pages
    negated = MetadataFilters(filters=[filters], condition="not")
    assert sorted(n.metadata["page"] for n in store.get_nodes(filters=negated)) == sorted({0, 1} - set(pages))
    await store.adelete_nodes(filters=filters)
    assert len(store.get_nodes()) == 2 - len(pages)


def test_unsupported_filter_and_mode_are_named(store):
    node = nodes()[0].node
    node.embedding = [1.0, 0.0]
    store.add([node])
    filters = MetadataFilters(filters=[MetadataFilter(key="page", value="x", operator="text_match")])
    with pytest.raises(ValueError, match="text_match"):
        store.get_nodes(filters=filters)
    with pytest.raises(ValueError, match="sparse"):
        store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], mode="sparse"))
    assert CompressedIndexVectorStore.class_name() == "CompressedIndexVectorStore"
    assert store.to_dict()["path"] == store.path
