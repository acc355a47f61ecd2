"""The LangChain side beyond the published suites: chains, classic retrievers, tracing, failures."""

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from ctxcompress_integrations import CompressedIndex, TextCompressor, load_compressor
from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.langchain import (
    CompressedIndexVectorStore,
    CompressedRetriever,
    ContextDocumentCompressor,
)
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.testing.tiny import tiny_decoder

QUERY = "How tall is the tower?"
TEXTS = [
    "The tower stands in Paris. The tower is 330 metres tall. Many people visit it each year.",
    "Bananas are yellow. They grow in the tropics. Nobody knows why.",
]
DOCUMENTS = [Document(id=f"d{i}", page_content=text, metadata={"page": i}) for i, text in enumerate(TEXTS)]


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.names, self.errors = [], []

    def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
        self.names.append(name)

    def on_chain_error(self, error, **kwargs):
        self.errors.append(error)


@pytest.fixture
def compressor():
    return ContextDocumentCompressor(method="lexical", keep_ratio=0.4)


@pytest.fixture
def retriever(compressor):
    store = CompressedIndexVectorStore.from_texts(
        TEXTS, DeterministicFakeEmbedding(size=8), [{"page": i} for i in range(2)], ids=["d0", "d1"]
    )
    return CompressedRetriever(retriever=store.as_retriever(search_kwargs={"k": 2}), compressor=compressor)


def test_figures_stand_under_one_key_and_spans_point_at_the_original(compressor):
    kept = compressor.compress_documents(DOCUMENTS, QUERY)
    assert [d.id for d in kept] == ["d0"]
    assert set(kept[0].metadata) == {"page", "ctxcompress"}
    figures = kept[0].metadata["ctxcompress"]
    assert " ".join(TEXTS[0][a:b] for a, b in figures["spans"]) == kept[0].page_content
    assert figures["n_tokens_out"] < figures["n_tokens_in"]


def test_chain_sends_the_compressed_text(retriever):
    seen = []
    prompt = ChatPromptTemplate.from_template("{context}\n{question}")
    chain = (
        {"context": retriever | (lambda ds: "\n".join(d.page_content for d in ds)), "question": RunnablePassthrough()}
        | prompt
        | RunnableLambda(lambda p: seen.append(p.to_string()) or p)
        | FakeListChatModel(responses=["330 metres"])
        | StrOutputParser()
    )
    assert chain.invoke(QUERY) == "330 metres"
    assert "330 metres tall" in seen[0]
    assert "tropics" not in seen[0]


async def test_runnable_is_traced_sync_and_async(compressor):
    recorder = Recorder()
    runnable = compressor.as_runnable()
    config = {"callbacks": [recorder]}
    found = runnable.invoke({"context": DOCUMENTS, "question": QUERY}, config)
    later = await runnable.ainvoke({"documents": DOCUMENTS, "query": QUERY}, config)
    assert [d.page_content for d in found] == [d.page_content for d in later]
    compressor.compress_documents(DOCUMENTS, QUERY, callbacks=[recorder])
    assert recorder.names == ["ContextDocumentCompressor"] * 3
    with pytest.raises(ValueError, match="question"):
        runnable.invoke({"documents": DOCUMENTS})
    assert len(runnable.batch([{"documents": DOCUMENTS, "query": QUERY}] * 3)) == 3
    for inputs, message in (
        (QUERY, "got str: 'How tall"),
        (None, "got NoneType"),
        ({"context": TEXTS[0], "question": QUERY}, "list of Document, got 'The tower"),
        ({"context": TEXTS, "question": QUERY}, r"list of Document, got \['The tower"),
    ):
        with pytest.raises(TypeError, match=message):
            runnable.invoke(inputs)
    again = runnable.invoke({"documents": iter(DOCUMENTS), "query": QUERY})
    assert [d.page_content for d in again] == [d.page_content for d in found]


def test_classic_compression_retriever_and_pipeline(compressor, retriever):
    classic = pytest.importorskip("langchain_classic.retrievers")
    pipeline = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    for inner in (compressor, pipeline.DocumentCompressorPipeline(transformers=[compressor])):
        wrapped = classic.ContextualCompressionRetriever(base_compressor=inner, base_retriever=retriever.retriever)
        assert "330 metres" in " ".join(d.page_content for d in wrapped.invoke(QUERY))


async def test_async_classic_retriever(compressor, retriever):
    classic = pytest.importorskip("langchain_classic.retrievers")
    wrapped = classic.ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever.retriever)
    assert "330 metres" in " ".join(d.page_content for d in await wrapped.ainvoke(QUERY))


def test_configuration_is_checked_at_construction_and_survives_pickling(compressor):
    compressor.compress_documents(DOCUMENTS, QUERY)
    again = pickle.loads(pickle.dumps(compressor))
    assert again == compressor
    assert again.compress_documents(DOCUMENTS, QUERY)[0].page_content
    for fields, message in (
        ({"keep_ratio": 1.5}, "1.5"),
        ({"keep_ratio": 0.5, "token_budget": 9}, "exactly one"),
        ({"method": "nothing"}, "nothing"),
        ({"method": "lexical", "long_input": "lm_infinite"}, "'lexical' takes no long_input"),
        ({"method": "lexical", "fast": True}, "'lexical' has no fast form"),
        ({"fast": True, "weights": "mine.safetensors"}, "leave model and weights out, got 'mine.safetensors'"),
        ({"keep": 1}, "keep"),
        ({"threshold": float("-inf")}, "finite number"),
        ({"token_budget": True}, "token_budget must be an int >= 1, got True"),
        ({"keep_ratio": True}, r"keep_ratio must be a number in \(0, 1\], got True"),
    ):
        with pytest.raises(ValueError, match=message):
            ContextDocumentCompressor(**fields)


def test_the_fields_say_what_happens_however_they_were_set(compressor, monkeypatch):
    def kept(component):
        found = component.compress_documents(DOCUMENTS, QUERY)
        return [d.page_content for d in found], found[0].metadata["ctxcompress"]["from_cache"]

    few, most, words = (
        ContextDocumentCompressor(method="lexical", **f).compress_documents(DOCUMENTS, QUERY)
        for f in ({"keep_ratio": 0.1}, {"keep_ratio": 0.9}, {"token_budget": 3, "unit": "phrase"})
    )
    compressor.compress_documents(DOCUMENTS, QUERY)
    monkeypatch.setattr(Lexical, "load", lambda **_: pytest.fail("the model is loaded already"))
    assert kept(compressor.model_copy(update={"keep_ratio": 0.1})) == ([d.page_content for d in few], True)
    made = compressor.model_copy(update={"keep_ratio": None, "token_budget": 3, "unit": "phrase"}, deep=True)
    assert kept(made) == ([d.page_content for d in words], True)
    compressor.keep_ratio = 0.9
    assert kept(compressor) == ([d.page_content for d in most], True)
    assert compressor == ContextDocumentCompressor(method="lexical", keep_ratio=0.9)
    with pytest.raises(ValueError, match="got 7"):
        compressor.keep_ratio = 7
    assert compressor.keep_ratio == 0.9
    with pytest.raises(ValueError, match="got 7"):
        compressor.model_copy(update={"keep_ratio": 7}).compress_documents(DOCUMENTS, QUERY)


def test_another_model_is_another_compressor():
    made = ContextDocumentCompressor(method="lexical", keep_ratio=0.4)
    want = made.compress_documents(DOCUMENTS, QUERY)[0].page_content
    made.method = "mini"
    assert isinstance(made._loaded().scorer, Mini)
    back = made.model_copy(update={"method": "lexical"})
    assert back.compress_documents(DOCUMENTS, QUERY)[0].page_content == want
    assert isinstance(made._loaded().scorer, Mini)
    with pytest.raises(ValueError, match="nothing"):
        made.method = "nothing"


def test_numbers_of_numpy_become_plain_fields():
    made = ContextDocumentCompressor(method="lexical", token_budget=np.int64(8))
    assert made == ContextDocumentCompressor.model_validate_json(made.model_dump_json())
    assert (type(made.token_budget), made.token_budget) == (int, 8)
    assert type(ContextDocumentCompressor(method="lexical", keep_ratio=np.float32(0.5)).keep_ratio) is float


class Unregistered(Lexical):
    name = "unregistered"


def test_a_component_around_a_compressor_says_so_and_does_not_lose_it():
    built = TextCompressor(Unregistered(), token_budget=40, count_tokens=len, sigma=2.0)
    made = ContextDocumentCompressor.from_compressor(built)
    assert (made.method, made.token_budget) == ("unregistered", 40)
    want = [p.text for p in built.compress([d.page_content for d in DOCUMENTS], QUERY).passages if p.text]
    for same in (made, made.model_copy(), made.model_copy(deep=True), copy.deepcopy(made)):
        assert [d.page_content for d in same.compress_documents(DOCUMENTS, QUERY)] == want
        assert same == made
    assert made != ContextDocumentCompressor.from_compressor(TextCompressor(Unregistered(), token_budget=40))
    for write in (pickle.dumps, ContextDocumentCompressor.model_dump, ContextDocumentCompressor.model_dump_json):
        with pytest.raises((TypeError, ValueError), match="made from a compressor object"):
            write(made)
    made.method = "lexical"
    assert pickle.loads(pickle.dumps(made)) == ContextDocumentCompressor(method="lexical", token_budget=40)


class Failing(Lexical):
    def score(self, requests):
        raise RuntimeError("out of memory")


async def test_on_error(caplog):
    compressor = TextCompressor(Failing(), keep_ratio=0.5)
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="out of memory"):
        ContextDocumentCompressor.from_compressor(compressor).compress_documents(DOCUMENTS, QUERY, [recorder])
    assert recorder.errors
    lenient = ContextDocumentCompressor.from_compressor(compressor, on_error="passthrough")
    assert lenient.compress_documents(DOCUMENTS, QUERY) == DOCUMENTS
    assert await lenient.acompress_documents(DOCUMENTS, QUERY) == DOCUMENTS
    assert "out of memory" in caplog.text


async def test_metadata_that_cannot_be_copied_is_for_on_error(compressor):
    locked = [DOCUMENTS[0].model_copy(update={"metadata": {"lock": threading.Lock()}})]
    with pytest.raises(TypeError, match="lock"):
        compressor.compress_documents(locked, QUERY)
    compressor.on_error = "passthrough"
    assert compressor.compress_documents(locked, QUERY) == locked
    assert await compressor.acompress_documents(locked, QUERY) == locked


class Titles(Lexical):
    def score(self, requests):
        self.seen = [list(request.titles) for request in requests]
        return super().score(requests)


def test_scorers_see_titles():
    scorer = Titles()
    made = ContextDocumentCompressor.from_compressor(TextCompressor(scorer, keep_ratio=0.4))
    named = [DOCUMENTS[0].model_copy(update={"metadata": {"title": "Eiffel  Tower"}}), DOCUMENTS[1]]
    made.compress_documents(named, QUERY)
    assert scorer.seen == [["Eiffel Tower", ""]]


def test_weights_are_configuration(tmp_path):
    made = ContextDocumentCompressor(method="mini", weights=str(tmp_path / "mine.safetensors"))
    assert pickle.loads(pickle.dumps(made)).weights == made.weights
    with pytest.raises(WeightsMismatchError, match="mine.safetensors"):
        made.compress_documents(DOCUMENTS, QUERY)


def test_what_is_loaded_waits_for_no_other_model(compressor, monkeypatch):
    started, gate = threading.Event(), threading.Event()

    def load(**_):
        started.set()
        gate.wait(30)
        return Lexical()

    monkeypatch.setattr(Mini, "load", load)
    compressor.compress_documents(DOCUMENTS, QUERY)
    another = ContextDocumentCompressor(method="lexical", keep_ratio=0.9)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ContextDocumentCompressor(method="mini").compress_documents, DOCUMENTS, QUERY)
        started.wait(10)
        try:
            for loaded in (compressor, another):
                assert pool.submit(loaded.compress_documents, DOCUMENTS, QUERY).result(5)
        finally:
            gate.set()
        assert slow.result(10)


def test_a_decoder_reads_long_passages_as_the_fields_say(tmp_path):
    model, tokenizer = tiny_decoder("llama", n_positions=160)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = ContextDocumentCompressor(method="quito", model=str(tmp_path), device="cpu", long_input="lm_infinite")
    assert pickle.loads(pickle.dumps(made)).long_input == "lm_infinite"
    long = Document(page_content=" ".join(f"Item {i} has the code {7 * i}." for i in range(60)))
    kept = made.compress_documents([long], QUERY)
    direct = load_compressor("quito", model=str(tmp_path), device="cpu", long_input="lm_infinite", keep_ratio=0.5)
    assert kept[0].page_content == direct.compress([long.page_content], QUERY).passages[0].text != long.page_content


async def test_concurrent_requests_share_batches():
    class Counting(Lexical):
        n_calls = 0

        def score(self, requests):
            Counting.n_calls += 1
            return super().score(requests)

    made = ContextDocumentCompressor.from_compressor(TextCompressor(Counting(), keep_ratio=0.4, cache_size=0))
    await asyncio.gather(*(made.acompress_documents(DOCUMENTS, f"{QUERY} {i}") for i in range(16)))
    assert Counting.n_calls < 16


def test_store_filters_mmr_and_relevance(retriever):
    store = retriever.retriever.vectorstore
    assert [d.id for d in store.similarity_search(TEXTS[0], k=2, filter={"page": 1})] == ["d1"]
    best, score = store.similarity_search_with_score(TEXTS[0], k=1)[0]
    assert best.id == "d0"
    assert score == pytest.approx(1.0, abs=1e-4)
    assert store.similarity_search_with_relevance_scores(TEXTS[0], k=1)[0][1] == pytest.approx(1.0, abs=1e-4)
    assert {d.id for d in store.max_marginal_relevance_search(TEXTS[0], k=2)} == {"d0", "d1"}
    threshold = {"score_threshold": 0.99}
    strict = store.as_retriever(search_type="similarity_score_threshold", search_kwargs=threshold)
    assert [d.id for d in strict.invoke(TEXTS[0])] == ["d0"]
    with pytest.raises(ValueError, match="ids"):
        store.add_texts(["a", "b"], ids=["only one"])
    for no_id in (0, 7, ""):
        with pytest.raises(ValueError, match=f"must be a non-empty str of valid Unicode, got {no_id!r}"):
            store.add_texts(["a", "b"], ids=["new", no_id])
    assert not store.get_by_ids(["new"])
    assert store.add_texts(["a", "b"], ids=["new", None])[0] == "new"


def test_retriever_streams_and_takes_k(retriever):
    assert len(retriever.invoke(QUERY, k=1)) <= 1
    assert next(iter(retriever.stream(QUERY)))[0].id == "d0"
    with pytest.raises(ValueError, match="k"):
        CompressedRetriever(retriever=retriever.retriever, compressor=retriever.compressor, k=0)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k must be an int >= 1, got {k}"):
            retriever.invoke(QUERY, k=k)


async def test_retriever_takes_whatever_runs_like_one(retriever):
    inner, compressor = retriever.retriever, retriever.compressor
    want = retriever.invoke(QUERY)[0].page_content
    for runnable in (
        inner.with_config(run_name="named"),
        inner.with_retry(),
        inner.with_fallbacks([inner]),
        RunnableLambda(lambda query: inner.invoke(query)),
    ):
        made = CompressedRetriever(retriever=runnable, compressor=compressor)
        assert made.invoke(QUERY)[0].page_content == want
        assert (await made.ainvoke(QUERY))[0].page_content == want
        assert len(made.invoke(QUERY, k=1)) <= 1


class Picky(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager, language="en"):
        return [Document(page_content=text) for text in ("one", "two", "three")]


def test_a_retriever_gets_only_what_it_takes(compressor):
    made = CompressedRetriever(retriever=Picky(), compressor=compressor, k=2)
    assert [d.page_content for d in made.invoke("one")] == ["one"]
    assert [d.page_content for d in made.invoke("one two", k=1)] == ["one"]


def test_k_reaches_a_retriever_behind_a_binding(retriever):
    inner = retriever.retriever.vectorstore.as_retriever(search_kwargs={"k": 1})
    whole = ContextDocumentCompressor(method="lexical", keep_ratio=1.0)
    for bound in (inner, inner.with_config(tags=["a"]), inner.with_config(tags=["a"]).with_retry()):
        made = CompressedRetriever(retriever=bound, compressor=whole)
        assert [len(made.invoke(QUERY, **given)) for given in ({}, {"k": 2})] == [1, 2]


def test_a_field_that_no_retriever_has_or_no_request_could_use_is_refused(compressor):
    with pytest.raises(ValueError, match="keep_ratio"):
        CompressedRetriever(retriever=Picky(), keep_ratio=0.1)
    made = CompressedRetriever(retriever=Picky(), compressor=compressor)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        made.k = 0


def test_citations_point_at_the_source_after_a_second_compression():
    text = "Cats sleep all day. Rain fell in May.\n\nThe tower is 330 metres tall. It was built in 1889."
    first = ContextDocumentCompressor(method="lexical", keep_ratio=0.6)
    second = ContextDocumentCompressor(method="lexical", keep_ratio=0.5)
    once = first.compress_documents([Document(page_content=text)], "tower metres built 1889")
    (document,) = second.compress_documents(once, "tower metres tall")
    figures = document.metadata["ctxcompress"]
    assert "".join(text[start:end] for start, end in figures["spans"]) == document.page_content != once[0].page_content
    assert figures["n_chars_in"] == len(text)


def test_documents_keep_their_kind_and_their_fields(compressor):
    class Article(Document):
        author: str

    (found,) = compressor.compress_documents([Article(page_content=TEXTS[0], author="Ada")], QUERY)
    assert (type(found), found.author) == (Article, "Ada")


def test_what_was_committed_before_a_failure_stays(tmp_path):
    class Tiring(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            if "text 999" in texts:
                raise ConnectionError("no answer")
            return super().embed_documents(texts)

    path, texts = tmp_path / "x.index", [f"text {i}" for i in range(1000)]
    with pytest.raises(ConnectionError):
        CompressedIndexVectorStore.from_texts(texts, Tiring(size=4), path=path)
    with CompressedIndex.open(path, embedder=DeterministicFakeEmbedding(size=4)) as index:
        assert 0 < len(index) < 1000
    (tmp_path / "linked").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "linked")
    with pytest.raises(ValueError, match="what JSON cannot"):
        CompressedIndexVectorStore.from_texts(["a"], Tiring(size=4), [{"x": object()}], path=tmp_path / "link")


def test_texts_that_cannot_be_stored_leave_no_index_behind(tmp_path):
    embedding = DeterministicFakeEmbedding(size=4)
    where = {"path": tmp_path / "x.index"}
    with pytest.raises(ValueError, match="what JSON cannot"):
        CompressedIndexVectorStore.from_texts(["a"], embedding, [{"when": np.datetime64("2020-01-01")}], **where)
    store = CompressedIndexVectorStore.from_texts(["a"], embedding, [{"when": "2020"}], **where)
    assert store.similarity_search("a", k=1)[0].metadata == {"when": "2020"}
    store.index.close()
