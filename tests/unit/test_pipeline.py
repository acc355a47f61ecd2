"""The road without a host, on the sample passages."""

import asyncio
import threading

import pytest

from ctxcompress_integrations import CompressedIndex, Passage, Pipeline, TextCompressor
from ctxcompress_integrations.scorers.lexical import Lexical


class Words:
    """Bag of words."""

    name = "words"

    def embed_documents(self, texts):
        vectors = []
        for text in texts:
            vector = [0.01] * 128
            for word in text.lower().split():
                vector[sum(map(ord, word)) % 128] += 1
            vectors.append(vector)
        return vectors

    def embed_query(self, text):
        return self.embed_documents([text])[0]


@pytest.fixture
def pipeline(tmp_path, sample_passages):
    with CompressedIndex.create(tmp_path / "x.index", embedder=Words()) as index:
        index.add([Passage(p["id"], p["text"], metadata=p["metadata"]) for p in sample_passages[:60]])
        yield Pipeline(index, TextCompressor(Lexical(), keep_ratio=0.3), k=5)


async def test_sync_many_and_async_agree(pipeline):
    questions = ["Who were the Normans?", "What is a steam engine?"]
    one = [pipeline.ask(question) for question in questions]
    many = pipeline.ask_many(questions)
    later = [await pipeline.aask(question) for question in questions]
    for a, b, c in zip(one, many, later, strict=True):
        assert [p.id for p in a.retrieved] == [p.id for p in b.retrieved] == [p.id for p in c.retrieved]
        assert a.result.text == b.result.text == c.result.text
        assert len(a.retrieved) == 5
        assert a.result.keep_ratio <= 0.3
        assert a.seconds_retrieve >= 0 < a.seconds_compress


def test_filter_budget_and_prompt(pipeline):
    answer = pipeline.ask("Who were the Normans?", k=3, where={"title": "Normans"}, token_budget=50)
    assert {p.metadata["title"] for p in answer.retrieved} == {"Normans"}
    assert answer.result.n_tokens_out <= 50
    assert "] Normans: " in answer.prompt
    assert answer.prompt.rstrip().endswith("Answer:")
    assert answer.text is None


def test_reader_gets_the_prompt(pipeline):
    reading = Pipeline(pipeline.index, pipeline.compressor, reader=lambda prompt: f"read {len(prompt)} characters")
    answer = reading.ask("Who were the Normans?")
    assert answer.text == f"read {len(answer.prompt)} characters"
    with pytest.raises(ValueError, match="k must be"):
        Pipeline(pipeline.index, pipeline.compressor, k=0)


async def test_wrong_options_cost_no_retrieval(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.index, "search_many", lambda *_: pytest.fail("searched"))
    monkeypatch.setattr(pipeline.index, "search", lambda *_: pytest.fail("searched"))
    with pytest.raises(ValueError, match=r"keep_ratio .* 3"):
        pipeline.ask("Who?", keep_ratio=3)
    with pytest.raises(ValueError, match="exactly one"):
        await pipeline.aask("Who?", keep_ratio=0.5, token_budget=5)


async def test_slow_readers_wait_side_by_side(pipeline):
    together = threading.Barrier(3)  # breaks unless three readers are in it at one time
    reading = Pipeline(pipeline.index, pipeline.compressor, reader=lambda _: str(together.wait(timeout=20)))
    answers = await asyncio.gather(*(reading.aask(f"What is {thing}?") for thing in ("steam", "rain", "oxygen")))
    assert sorted(answer.text for answer in answers) == ["0", "1", "2"]
