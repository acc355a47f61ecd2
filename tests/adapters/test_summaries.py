"""Summary vectors through both hosts: from an index that holds them to a local reader, with a tiny random model."""

import asyncio
import copy
import pickle
import time

import numpy as np
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.types import VectorStoreQuery

from ctxcompress_integrations import CompressedIndex, Passage, TextCompressor
from ctxcompress_integrations.errors import IndexNotFoundError, SummaryMismatchError
from ctxcompress_integrations.host_reading import Reading, summary_key
from ctxcompress_integrations.langchain import (
    ChatSummaryReader,
    CompressedIndexVectorStore,
    ContextDocumentCompressor,
    passage_blocks,
    summary_prompt,
)
from ctxcompress_integrations.llama_index import (
    CompressedIndexVectorStore as LlamaStore,
)
from ctxcompress_integrations.llama_index import (
    ContextNodePostprocessor,
    SummarySynthesizer,
)
from ctxcompress_integrations.pipeline import around
from ctxcompress_integrations.readers.chat import TextReader
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder

QUESTION = "How tall is the tower?"
TEXTS = [
    "The tower stands in Paris. The tower is 330 metres tall. Many people visit it each year. It was built in 1889.",
    "Bananas are yellow. They grow in the tropics. Nobody knows why they are so popular among the people of the north.",
    "A",
]


class Recorder(HFReader):
    """Keeps the prompts that it was given."""

    prompts: list

    def generate_many(self, prompts, **options):
        self.__dict__.setdefault("prompts", []).extend(list(p) for p in prompts)
        return super().generate_many(prompts, **options)

    def stream(self, parts, **options):
        self.__dict__.setdefault("prompts", []).append(list(parts))
        return super().stream(parts, **options)


@pytest.fixture(scope="module")
def decoder():
    return tiny_decoder("llama")


@pytest.fixture
def reader(decoder):
    return Recorder(*decoder)


@pytest.fixture
def summarizer(decoder):
    model, tokenizer = decoder
    return Pooled.untrained(model, tokenizer, reader=model, pool=16)


@pytest.fixture
def index(tmp_path, summarizer):
    embedding = DeterministicFakeEmbedding(size=16)
    with CompressedIndex.create(tmp_path / "a.index", embedder=embedding) as index:
        index.add([Passage(f"p{i}", text, metadata={"title": f"T{i}"}) for i, text in enumerate(TEXTS)])
        index.build_summaries(summarizer)
        yield index


def lexical(**options):
    return ContextDocumentCompressor.from_compressor(TextCompressor(Lexical(), **options))


def found(index, summarizer):
    store = CompressedIndexVectorStore(index, summaries=summarizer.fingerprint)
    return store.similarity_search(QUESTION, k=3)


def forms(parts):
    return ["vectors" if isinstance(part, SummaryVectors) else "text" for part in parts]


# -- the key


def test_found_documents_carry_the_key_and_no_tensor(index, summarizer):
    documents = found(index, summarizer)
    assert {summary_key(d.metadata) for d in documents} == {summarizer.fingerprint}
    assert all(d.metadata["ctxcompress"] == {"summary": summarizer.fingerprint} for d in documents)
    assert all(d.metadata["title"] for d in documents)
    plain = CompressedIndexVectorStore(index).similarity_search(QUESTION, k=1)[0]
    assert "ctxcompress" not in plain.metadata
    compressed = lexical(keep_ratio=0.3).compress_documents(documents, QUESTION)
    assert compressed
    assert all(summary_key(d.metadata) == summarizer.fingerprint for d in compressed)
    assert all("spans" in d.metadata["ctxcompress"] for d in compressed)


# -- LangChain


def test_a_chain_reads_vectors_where_they_save_positions(index, reader, summarizer):
    llm = ChatSummaryReader.from_reader(reader, index=index, compressor=lexical(), max_tokens=4)
    store = CompressedIndexVectorStore(index, summaries=summarizer.fingerprint)
    retrieve = RunnableLambda(lambda q: {"context": store.similarity_search(q, k=3), "question": q})
    chain = retrieve | summary_prompt() | llm | StrOutputParser()
    answer = chain.invoke(QUESTION)
    (prompt,) = reader.prompts
    vectors = [part for part in prompt if isinstance(part, SummaryVectors)]
    assert sorted(v.id for v in vectors) == ["p0", "p1"]  # "A" takes no more positions than a vector
    text = "".join(part for part in prompt if isinstance(part, str))
    assert "T2: A" in text
    assert "330 metres" not in text
    assert text.rstrip().endswith("Answer:")
    assert QUESTION in text
    assert [f"[{n}]" in text for n in (1, 2, 3)] == [True] * 3
    assert answer == reader.generate(prompt, max_new_tokens=4)


def test_a_budget_mixes_pruned_text_and_vectors_and_is_never_exceeded(index, reader, summarizer):
    documents = found(index, summarizer)
    for budget in (20, 45, 60, 400):
        llm = ChatSummaryReader.from_reader(reader, index=index, compressor=lexical(), budget=budget, max_tokens=1)
        message = HumanMessage(content=[*passage_blocks(documents, QUESTION), {"type": "text", "text": " " + QUESTION}])
        reader.__dict__["prompts"] = []
        result = llm.invoke([message])
        (prompt,) = reader.prompts
        n_question = reader.positions(prompt) - reader.positions(prompt[:-1]) if prompt[:-1] else 0
        assert result.usage_metadata["input_tokens"] - max(n_question, reader.count_tokens(" " + QUESTION)) <= budget
    assert "vectors" not in forms(prompt)  # at last all of it fits as text
    assert "330 metres" in prompt[0]


def test_streams_batches_and_async_give_the_same_answer(index, reader, summarizer):
    llm = ChatSummaryReader.from_reader(reader, index=index, compressor=lexical(), max_tokens=5)
    prompt = summary_prompt().invoke({"context": found(index, summarizer), "question": QUESTION})
    whole = llm.invoke(prompt)
    assert whole.response_metadata["model_name"] == "Recorder"
    chunks = list(llm.stream(prompt))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].usage_metadata == whole.usage_metadata

    async def several():
        streamed = [chunk.text async for chunk in llm.astream(prompt)]
        answers = await asyncio.gather(*(llm.ainvoke(prompt) for _ in range(3)))
        return "".join(streamed), [answer.text for answer in answers]

    assert asyncio.run(several()) == (whole.text, [whole.text] * 3)
    assert [answer.text for answer in llm.batch([prompt, prompt])] == [whole.text] * 2


def test_a_conversation_is_read_as_its_transcript(reader):
    llm = ChatSummaryReader.from_reader(reader, max_tokens=2)
    llm.invoke([SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Who?")])
    assert reader.prompts == [["System: Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Who?\n\nAssistant:"]]


def test_documents_without_an_id_or_with_the_same_id_are_read(index, reader, summarizer):
    documents = [Document(page_content=TEXTS[0]), *found(index, summarizer)[:1] * 2]
    llm = ChatSummaryReader.from_reader(reader, index=index, compressor=lexical(), max_tokens=1)
    llm.invoke(summary_prompt().invoke({"context": documents, "question": QUESTION}))
    assert forms(reader.prompts[0]).count("vectors") == (2 if documents[1].id != "p2" else 0)


def test_a_passage_that_changed_since_travels_as_text(index, reader, summarizer):
    documents = found(index, summarizer)
    index.add([Passage("p0", "The tower was measured again and is now 331 metres tall, say the people who did it.")])
    llm = ChatSummaryReader.from_reader(reader, index=index, compressor=lexical(), max_tokens=1)
    llm.invoke(summary_prompt().invoke({"context": documents, "question": QUESTION}))
    assert [part.id for part in reader.prompts[0] if isinstance(part, SummaryVectors)] == ["p1"]


def test_a_passage_that_changed_since_can_be_summarized_now(index, reader, summarizer):
    documents = found(index, summarizer)
    changed = "The tower was measured again and is now 331 metres tall, say the people who did it."
    index.add([Passage("p0", changed)])
    documents = [d.model_copy(update={"page_content": changed}) if d.id == "p0" else d for d in documents]
    llm = ChatSummaryReader.from_reader(reader, index=index, on_miss=summarizer, compressor=lexical(), max_tokens=1)
    llm.invoke(summary_prompt().invoke({"context": documents, "question": QUESTION}))
    vectors = {part.id: part.vectors for part in reader.prompts[0] if isinstance(part, SummaryVectors)}
    assert set(vectors) == {"p0", "p1"}
    assert np.array_equal(vectors["p0"], summarizer.summarize([changed])[0].vectors)


def test_what_cannot_be_read_is_named(index, reader, summarizer, decoder):
    prompt = summary_prompt().invoke({"context": found(index, summarizer), "question": QUESTION})
    with pytest.raises(ValueError, match="give the index"):
        ChatSummaryReader.from_reader(reader, compressor=lexical()).invoke(prompt)
    other = HFReader(*tiny_decoder("llama", seed=1))
    with pytest.raises(SummaryMismatchError, match="made for the reader"):
        ChatSummaryReader.from_reader(other, index=index, compressor=lexical()).invoke(prompt)
    with pytest.raises(ValueError, match="'image_url'"):
        ChatSummaryReader.from_reader(reader).invoke([HumanMessage(content=[{"type": "image_url", "image_url": "x"}])])
    with pytest.raises(ValueError, match="needs {context}"):
        summary_prompt("Answer {question}")
    with pytest.raises(ValueError, match="budget"):
        ChatSummaryReader(budget=0)


def test_a_text_only_model_gets_text(index, summarizer):
    asked = []
    reader = TextReader(lambda prompt: asked.append(prompt) or "fine")
    llm = ChatSummaryReader.from_reader(reader, index=index, compressor=lexical())
    prompt = summary_prompt().invoke({"context": found(index, summarizer), "question": QUESTION})
    with pytest.warns(UserWarning, match="TextReader reads text only") as caught:
        answer = llm.invoke(prompt)
    assert len(caught) == 1
    llm.invoke(prompt)  # once is enough
    assert (answer.text, answer.usage_metadata) == ("fine", None)  # nobody counts
    assert "330 metres" in asked[0]
    counting = TextReader(lambda prompt: asked.append(prompt) or "fine", count_tokens=lambda text: len(text.split()))
    llm = ChatSummaryReader.from_reader(counting, index=index, compressor=lexical(), budget=12)
    with pytest.warns(UserWarning, match="reads text only"):
        answer = llm.invoke(prompt)
    assert answer.usage_metadata["output_tokens"] == 1
    assert "330 metres" in asked[-1]
    assert "tropics" not in asked[-1]


def test_a_pickle_keeps_the_configuration(tmp_path):
    made = ChatSummaryReader(model="folder", index=str(tmp_path), budget=7, adapters={"a": "b"})
    again = pickle.loads(pickle.dumps(made))
    assert (again.model, again.index, again.budget, again.adapters) == ("folder", str(tmp_path), 7, {"a": "b"})


def words(text):
    return len(text.split())


def listening(**fields):
    """A chat model around a reader of text that counts words, and the prompts that it gets."""
    asked = []
    reader = TextReader(lambda prompt: asked.append(prompt) or "fine", count_tokens=words)
    return ChatSummaryReader.from_reader(reader, **{"compressor": lexical(), **fields}), asked


def test_one_budget_holds_for_the_passages_of_all_messages():
    documents = [Document(page_content=text) for text in TEXTS[:2]]

    def asked_with(query):
        return HumanMessage(content=[*passage_blocks(documents, query), {"type": "text", "text": " " + query}])

    llm, asked = listening(budget=14)
    llm.invoke([asked_with("Where do bananas grow?"), AIMessage("In the tropics."), asked_with(QUESTION)])
    assert "330 metres" in asked[0]  # the last question is what counts
    spoken = asked[0].replace("[", "\n[").splitlines()
    passages = [line for line in spoken if line.startswith("[")]
    numbers = [line[:3] for line in passages]
    assert len(numbers) == len(set(numbers))
    bare = asked[0]
    for text in ("User:", "Assistant:", "Where do bananas grow?", "In the tropics.", QUESTION):
        bare = bare.replace(text, "")
    assert 0 < words(bare) <= 14


def test_a_cache_of_answers_knows_models_and_limits_apart(reader):
    one, two = ChatSummaryReader.from_reader(reader), ChatSummaryReader.from_reader(TextReader(lambda prompt: "fine"))
    shorter = ChatSummaryReader.from_reader(reader, max_tokens=1)
    set_llm_cache(InMemoryCache())
    try:
        answers = [llm.invoke("Who?").text for llm in (one, two, shorter, one)]
    finally:
        set_llm_cache(None)
    assert answers[1] == "fine" != answers[0]
    assert len(answers[2]) < len(answers[0]) == len(answers[3])
    fields = {"model": "m", "stop": ["x"], "budget": 3}
    same = [ChatSummaryReader(**fields)._identifying_params for _ in range(2)]
    assert same[0] == same[1] != ChatSummaryReader(**fields, dtype="float32")._identifying_params
    keeping = ContextDocumentCompressor(method="lexical", keep_ratio=0.1)
    assert same[0] != ChatSummaryReader(**fields, compressor=keeping)._identifying_params


def test_built_compressors_are_told_apart(reader):
    made = ChatSummaryReader.from_reader(reader, compressor=lexical())
    other = made.model_copy(update={"compressor": lexical()})
    assert made._identifying_params == made.model_copy()._identifying_params != other._identifying_params


def test_an_index_is_opened_for_passages_alone(tmp_path, reader):
    llm = ChatSummaryReader.from_reader(reader, max_tokens=2)
    llm.index = str(tmp_path / "none")
    assert asyncio.run(llm.ainvoke("Hi")).text == llm.invoke("Hi").text
    with pytest.raises(IndexNotFoundError):
        asyncio.run(llm.ainvoke([HumanMessage(content=passage_blocks([Document(page_content="Text.")]))]))


def test_copies_share_the_reader(reader):
    made = ChatSummaryReader.from_reader(reader, stop=["x"], compressor=lexical())
    copied = copy.deepcopy(made)
    assert copied.invoke("Hi").text == made.invoke("Hi").text
    copied.stop.append("y")
    assert made.stop == ["x"]


def test_it_counts_as_its_reader_does():
    llm, _ = listening()
    assert llm.get_num_tokens("one two three") == 3
    asked = [HumanMessage("a b c d e f g h"), HumanMessage("i j")]
    assert trim_messages(asked, max_tokens=6, token_counter=llm) == asked[1:]
    assert llm.invoke("Hi", max_tokens=None).text == "fine"


def test_without_a_budget_no_compressor_is_loaded():
    missing = ContextDocumentCompressor(method="quito", model="/nowhere")
    llm, asked = listening(compressor=missing)
    llm.invoke([HumanMessage(content=passage_blocks([Document(page_content=TEXTS[0])]))])
    assert asked == [f"[1] {TEXTS[0]}"]


@pytest.mark.parametrize("is_streaming", [False, True])
def test_questions_asked_at_the_same_time_are_scored_together(is_streaming):
    batches = []

    class Counting(Lexical):
        def score(self, requests):
            batches.append(len(requests))
            time.sleep(0.05)  # the others come meanwhile
            return super().score(requests)

    compressor = ContextDocumentCompressor.from_compressor(TextCompressor(Counting()))
    llm, asked = listening(compressor=compressor, budget=12)
    prompts = [
        [HumanMessage(content=passage_blocks([Document(page_content=text) for text in TEXTS], f"tower {i}?"))]
        for i in range(12)
    ]

    async def streamed(prompt):
        return "".join([chunk.text async for chunk in llm.astream(prompt)])

    async def all_at_once(ask):
        await asyncio.gather(*map(ask, prompts))

    asyncio.run(all_at_once(streamed if is_streaming else llm.ainvoke))
    assert len(asked) == sum(batches) == 12
    assert len(batches) <= 4


@pytest.mark.parametrize("beside", [{}, {"spans": [[0, 1]]}])
def test_a_passage_cannot_name_a_summary_of_its_own(tmp_path, beside):
    with CompressedIndex.create(tmp_path / "b.index", embedder=DeterministicFakeEmbedding(size=8)) as index:
        index.add([Passage("p", "Text.", metadata={"ctxcompress": {"summary": "other", **beside}, "n": 1})])
        (document,) = CompressedIndexVectorStore(index).similarity_search("?", k=1)
        wanted = {"ctxcompress": beside, "n": 1} if beside else {"n": 1}
        assert document.metadata == CompressedIndexVectorStore(index).get_by_ids(["p"])[0].metadata == wanted
    store = LlamaStore(tmp_path / "l.index")
    metadata = {"ctxcompress": {"summary": "other", **beside}, "n": 1}
    store.add([TextNode(id_="p", text="Text.", metadata=metadata, embedding=[1.0, 0.0])])
    (node,) = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=1)).nodes
    assert node.metadata == store.get_nodes(["p"])[0].metadata == wanted
    store.close()


# -- LlamaIndex


@pytest.fixture
def engine(tmp_path, reader, summarizer):
    embedding = MockEmbedding(embed_dim=8)
    store = LlamaStore(tmp_path / "l.index", summaries=summarizer.fingerprint)
    nodes = [TextNode(id_=f"n{i}", text=text, metadata={"title": f"T{i}"}) for i, text in enumerate(TEXTS)]
    vector_index = VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embedding
    )
    store.client.build_summaries(summarizer)
    retriever = vector_index.as_retriever(similarity_top_k=3)

    def make(**options):
        compressor = ContextNodePostprocessor.from_compressor(TextCompressor(Lexical()))
        synthesizer = SummarySynthesizer(reader, store.client, compressor=compressor, max_new_tokens=4, **options)
        return RetrieverQueryEngine(retriever=retriever, response_synthesizer=synthesizer)

    yield make
    store.close()


def test_a_query_engine_reads_vectors(engine, reader, summarizer):
    response = engine().query(QUESTION)
    (prompt,) = reader.prompts
    assert sorted(part.id for part in prompt if isinstance(part, SummaryVectors)) == ["n0", "n1"]
    assert str(response) == reader.generate(prompt, max_new_tokens=4)
    assert {summary_key(node.node.metadata) for node in response.source_nodes} == {summarizer.fingerprint}
    assert all("ctxcompress" in node.node.excluded_llm_metadata_keys for node in response.source_nodes)


def test_a_query_engine_streams_and_runs_async(engine):
    whole = str(engine().query(QUESTION))
    assert "".join(engine(streaming=True).query(QUESTION).response_gen) == whole

    async def asked():
        plain = await engine().aquery(QUESTION)
        streamed = await engine(streaming=True).aquery(QUESTION)
        return str(plain), "".join([piece async for piece in streamed.async_response_gen()])

    assert asyncio.run(asked()) == (whole, whole)


def test_a_query_engine_keeps_its_budget(engine, reader):
    engine(budget=50).query(QUESTION)
    (prompt,) = reader.prompts
    frame = around((), QUESTION)
    assert reader.positions(prompt[1:-1]) <= 50
    assert (prompt[0], prompt[-1]) == frame


def test_a_query_engine_summarizes_what_the_index_lacks(engine, reader, summarizer):
    made = engine(on_miss=summarizer)
    index = made._response_synthesizer.index
    index.drop_summaries()
    made.query(QUESTION)
    assert sorted(part.id for part in reader.prompts[0] if isinstance(part, SummaryVectors)) == ["n0", "n1"]


def test_nothing_found_and_bare_texts(reader):
    synthesizer = SummarySynthesizer(
        reader,
        compressor=ContextNodePostprocessor.from_compressor(TextCompressor(Lexical())),
        empty_response="Nothing.",
    )
    assert str(synthesizer.synthesize(QUESTION, [])) == "Nothing."
    assert synthesizer.get_response(QUESTION, TEXTS) == str(
        synthesizer.synthesize(QUESTION, [NodeWithScore(node=TextNode(text=text)) for text in TEXTS])
    )
    with pytest.raises(ValueError, match="needs {context}"):
        SummarySynthesizer(reader, prompt="{question} {context}")


# -- the decision that both share


def test_two_summarizers_in_one_request(index, reader, summarizer, decoder):
    model, tokenizer = decoder
    other = Pooled.untrained(model, tokenizer, reader=model, pool=8)
    index.build_summaries(other)
    passages = [
        Passage(f"p{i}", TEXTS[i], metadata={"ctxcompress": {"summary": s.fingerprint}})
        for i, s in enumerate((summarizer, other))
    ]
    allocation = Reading(reader, index, lambda: TextCompressor(Lexical()), None).arrange(passages, QUESTION)
    vectors = [part for part in allocation.parts if isinstance(part, SummaryVectors)]
    assert [v.fingerprint for v in vectors] == [summarizer.fingerprint, other.fingerprint]
    assert [share.id for share in allocation.shares] == ["0", "1"]
