"""The road without a host, on the sample passages."""

import asyncio
import threading

import numpy as np
import pytest
import torch

from ctxcompress_integrations import CompressedIndex, Passage, Pipeline, SummaryVectors, TextCompressor
from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.readers.chat import TextReader
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.testing.tiny import tiny_decoder


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


class Written:
    """Six vectors for every passage, from a seed."""

    fingerprint = "fingerprint"

    def __init__(self, reader):
        self.identity = {"method": "written", "reader": reader.identity}

    def summarize(self, passages):
        rng = np.random.default_rng(0)
        reader = self.identity["reader"]
        return [
            SummaryVectors(p.id, rng.normal(size=(6, 32)).astype(np.float32), self.fingerprint, reader, 9)
            for p in passages
        ]


@pytest.fixture
def summarized(tmp_path, sample_passages):
    reader = HFReader(*tiny_decoder("llama", n_positions=4096))
    passages = [Passage(p["id"], p["text"], metadata=p["metadata"]) for p in sample_passages[:30]]
    with CompressedIndex.create(tmp_path / "x.index", embedder=Words()) as index:
        index.add(passages)
        index.build_summaries(Written(reader))
        yield index, reader


async def test_a_reader_gets_text_and_vectors_within_its_budget(summarized):
    index, reader = summarized
    settings = {"k": 5, "reader": reader, "max_new_tokens": 6}
    compressor = TextCompressor(Lexical(), keep_ratio=0.3)
    mixed = Pipeline(index, compressor, **settings, fingerprint="fingerprint", reader_budget=400)
    answer = mixed.ask("Who were the Normans?")
    assert {share.form for share in answer.allocation.shares} == {"vectors", "pruned"}
    assert 0 < answer.allocation.n_positions <= 400
    assert sum(isinstance(part, SummaryVectors) for part in answer.parts) == sum(
        share.form == "vectors" for share in answer.allocation.shares
    )
    assert answer.parts[0].startswith("Answer from these passages only")
    assert answer.parts[-1].endswith("Question: Who were the Normans?\nAnswer:")
    assert answer.text == reader.generate(answer.parts, max_new_tokens=6)
    assert reader.positions(answer.parts) < reader.positions([answer.prompt])

    questions = ["Who were the Normans?", "What is a steam engine?"]
    many, later = mixed.ask_many(questions), await asyncio.gather(*map(mixed.aask, questions))
    assert [a.text for a in many] == [a.text for a in later]
    assert many[0].text == answer.text
    assert [a.allocation.shares for a in many] == [a.allocation.shares for a in later]

    roomy = Pipeline(index, compressor, **settings, fingerprint="fingerprint", reader_budget=3500).ask("Who?")
    assert {share.form for share in roomy.allocation.shares} == {"full"}
    text = Pipeline(index, compressor, **settings).ask("Who were the Normans?")
    assert text.allocation is None
    assert text.text == reader.generate([text.prompt], max_new_tokens=6)
    with pytest.raises(SummaryMismatchError, match="not by another"):
        Pipeline(index, compressor, **settings, fingerprint="another", reader_budget=400).ask("Who?")


def test_a_reader_of_text_gets_text_after_one_warning(summarized):
    index, _ = summarized
    reader = TextReader(lambda prompt: prompt[-7:], count_tokens=lambda text: len(text.split()))
    compressor = TextCompressor(Lexical(), keep_ratio=0.3)
    with pytest.warns(UserWarning, match="TextReader reads text only") as caught:
        pipeline = Pipeline(index, compressor, k=5, reader=reader, fingerprint="fingerprint", reader_budget=90)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for answer in pipeline.ask_many(["Who were the Normans?", "What is steam?"]):
        assert answer.text == "Answer:"
        assert {share.form for share in answer.allocation.shares} <= {"pruned", "full", "left out"}
        assert answer.allocation.n_positions <= 90


async def test_without_a_limit_the_budget_prunes(summarized):
    index, reader = summarized
    settings = {"k": 5, "reader": reader, "max_new_tokens": 2, "fingerprint": "fingerprint"}
    question = "Who were the Normans?"
    n_before = 0
    for budget in (60, 200, 400, 900):
        pipeline = Pipeline(index, TextCompressor(Lexical()), **settings, reader_budget=budget)
        answer, later = pipeline.ask(question), await pipeline.aask(question)
        assert answer.allocation.n_positions <= budget
        assert answer.allocation.shares == later.allocation.shares
        n_text = sum(share.form in ("pruned", "full") for share in answer.allocation.shares)
        assert n_text >= min(n_before, 1)
        n_before = n_text
        if budget >= 200:  # the budget is used: text comes in beside the vectors
            assert n_text
            assert answer.allocation.n_positions > 0.6 * budget
    with pytest.raises(ValueError, match="say how much to keep"):
        Pipeline(index, TextCompressor(Lexical())).ask(question)


def test_a_new_passage_has_no_vectors_yet_and_travels_as_text(summarized):
    index, reader = summarized
    index.add([Passage("new", "The Normans were people of Normandy, says this passage, which came later.")])
    pipeline = Pipeline(
        index, TextCompressor(Lexical()), k=40, reader=reader, fingerprint="fingerprint", reader_budget=2000,
        max_new_tokens=1,
    )  # fmt: skip
    forms = {share.id: share.form for share in pipeline.ask("Who were the Normans?").allocation.shares}
    assert forms["new"] in ("pruned", "full")


def test_what_has_no_vectors_yet_is_summarized_when_the_question_comes(summarized):
    index, reader = summarized
    new = "The Normans were people of Normandy, says this passage, which came later."
    index.add([Passage("new", new), Passage("blank", " ")])
    asked = []

    class OnMiss(Written):
        fingerprint = "quick"

        def summarize(self, passages):
            asked.extend(passage.id for passage in passages)
            return super().summarize(passages)

    settings = {"k": 40, "reader": reader, "reader_budget": 900, "max_new_tokens": 1, "on_miss": OnMiss(reader)}
    compressor = TextCompressor(Lexical())
    answer = Pipeline(index, compressor, **settings, fingerprint="fingerprint", form="vectors").ask("Who?")
    assert asked == ["new"]
    made_by = {part.id: part.fingerprint for part in answer.parts if isinstance(part, SummaryVectors)}
    assert made_by.pop("new") == "quick"
    assert set(made_by.values()) == {"fingerprint"}
    asked.clear()
    Pipeline(index, compressor, **settings).ask("Who?")  # without any in the index
    assert len(asked) == 31
    asked.clear()
    Pipeline(index, compressor, **settings, form="text").ask("Who?")
    assert asked == []


def test_vectors_come_to_the_readers_device(summarized, monkeypatch):
    index, reader = summarized
    monkeypatch.setattr(reader, "device", torch.device("cpu"))
    pipeline = Pipeline(
        index, TextCompressor(Lexical()), k=3, reader=reader, reader_budget=60, fingerprint="fingerprint",
        max_new_tokens=1, form="vectors",
    )  # fmt: skip
    vectors = [part.vectors for part in pipeline.ask("Who?").parts if isinstance(part, SummaryVectors)]
    assert vectors
    assert all(isinstance(v, torch.Tensor) for v in vectors)
    monkeypatch.setattr(reader, "device", None)
    vectors = [part.vectors for part in pipeline.ask("Who?").parts if isinstance(part, SummaryVectors)]
    assert all(isinstance(v, np.ndarray) for v in vectors)


def test_settings_that_cannot_be_meant(summarized):
    index, reader = summarized
    compressor = TextCompressor(Lexical(), keep_ratio=0.3)
    with pytest.raises(ValueError, match="reader_budget=9 needs a Reader"):
        Pipeline(index, compressor, reader=str, reader_budget=9)
    with pytest.raises(ValueError, match="give reader_budget="):
        Pipeline(index, compressor, reader=reader, fingerprint="f")
    for wrong, named in (
        ({"form": "bogus"}, "form must be one of"),
        ({"k": 0}, "k must be an int"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an int"),
        ({"reader_budget": 2.5}, "reader_budget must be an int"),
        ({"reader": TextReader(lambda prompt, **_: prompt), "reader_budget": 9}, "that counts positions"),
    ):
        with pytest.raises(ValueError, match=named):
            Pipeline(index, compressor, **{"reader": reader, **wrong})
