"""The contract of compression, over arbitrary text and scores."""

import asyncio
import threading
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctxcompress_integrations import Passage, TextCompressor
from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import Scorer
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.text.segment import segment
from ctxcompress_integrations.text.spans import join_spans


class Seeded(Scorer):
    """Random relevance per word, a function of the text alone; counts its calls and can be told to wait or to fail."""

    name = "seeded"

    def __init__(self):
        self.calls, self.gate, self.running, self.most_running = [], None, 0, 0

    @classmethod
    def load(cls, **_):
        return cls()

    def score(self, requests):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.calls.append(len(requests))
        if self.gate:
            self.gate.wait(10)
        if any("boom" in text for r in requests for text in r.texts):
            self.running -= 1
            raise RuntimeError("boom")
        self.running -= 1
        return [[self.relevance(text) for text in r.texts] for r in requests]

    def relevance(self, text):
        words, _ = segment(text)
        rng = np.random.default_rng(sum(map(ord, text)))
        evidence = rng.normal(size=(2, len(words))).astype(np.float32)
        return Relevance(words, evidence.max(axis=0), evidence)

    def count_tokens(self, text):
        return len(regex.findall(r"\w{1,4}|\S|\s{2,}", text))


ALPHABET = st.one_of(
    st.characters(codec=None), st.sampled_from("abc de. fg! \n\n 塔高。ทีมพ مرحبا؟ 😀👩\u200d👧\u200b\u0301 12,5 km `x`")
)
PASSAGE_TEXTS = st.lists(st.text(alphabet=ALPHABET, max_size=300), max_size=5)
LIMITS = st.one_of(
    st.fixed_dictionaries({"keep_ratio": st.floats(0.01, 1)}),
    st.fixed_dictionaries({"token_budget": st.integers(1, 60)}),
    st.fixed_dictionaries({"threshold": st.floats(-3, 3)}),
)
OPTIONS = st.fixed_dictionaries(
    {
        "unit": st.sampled_from(["sentence", "phrase", "dynamic"]),
        "protect": st.sampled_from([None, "numbers", ["code", "urls"]]),
        "joiner": st.sampled_from([None, " ... "]),
        "count_tokens": st.sampled_from([None, len, lambda text: len(text.encode("utf-8", "surrogatepass")) + 1]),
    }
)


@settings(max_examples=400, deadline=None)
@given(PASSAGE_TEXTS, LIMITS, OPTIONS)
@example(["a " * 500], {"token_budget": 1}, {"unit": "sentence"})
@example(["x" * 3000], {"token_budget": 7}, {"unit": "sentence"})
def test_contract_holds_for_arbitrary_text(texts, limit, options):
    scorer = Seeded()
    count = options.get("count_tokens") or scorer.count_tokens
    result = TextCompressor(scorer).compress(texts, "why?", **limit, **options)
    assert [p.id for p in result.passages] == [str(i) for i in range(len(texts))]
    assert [p.original for p in result.passages] == texts
    for text, p in zip(texts, result.passages, strict=True):
        assert p.text in (join_spans(text, p.spans, options.get("joiner")), join_spans(text, p.spans))
        assert len(p.text) <= len(text)
        assert all(a.end <= b.start for a, b in pairwise(p.spans))
        if p.spans not in ((), ((0, len(text)),)):
            words, _ = segment(text)
            starts, ends = set(words[:, 0].tolist()), set(words[:, 1].tolist())
            assert all(s.start in starts and s.end in ends for s in p.spans)
    joined = "\n\n".join(text for text in texts if text)
    n_in = count(joined) if joined else 0
    assert result.n_tokens_in == n_in
    assert result.n_tokens_out == (count(result.text) if result.text else 0)
    assert result.n_tokens_out <= result.n_tokens_in
    if "token_budget" in limit:
        assert result.n_tokens_out <= limit["token_budget"]
        assert sum(count(p.text) for p in result.passages if p.text) <= limit["token_budget"]
    is_untouched = [p.text for p in result.passages] == texts
    if "keep_ratio" in limit and result.n_tokens_out > limit["keep_ratio"] * n_in and not is_untouched:
        n_kept_units = sum(len(p.spans) for p in result.passages)
        assert n_kept_units == 1, "only the first unit may exceed the target"


@settings(max_examples=100, deadline=None)
@given(PASSAGE_TEXTS, st.integers(0, 5))
def test_under_budget_comes_back_untouched_without_a_model(texts, slack):
    scorer = Seeded()
    n_tokens = max(scorer.count_tokens("\n\n".join(filter(None, texts))), sum(map(scorer.count_tokens, texts)))
    result = TextCompressor(scorer).compress(texts, "why?", token_budget=max(1, n_tokens + slack))
    assert [p.text for p in result.passages] == texts
    assert scorer.calls == []
    assert [p.text for p in TextCompressor(scorer).compress(texts, "why?", keep_ratio=1.0).passages] == texts


@settings(max_examples=60, deadline=None)
@given(st.lists(PASSAGE_TEXTS, min_size=2, max_size=4), LIMITS)
def test_company_changes_nothing(requests, limit):
    compressor = TextCompressor(Seeded(), cache_size=0)
    together = compressor.compress_many([(texts, "why?") for texts in requests], **limit)
    for texts, result in zip(requests, together, strict=True):
        assert [p.spans for p in result.passages] == [
            p.spans for p in compressor.compress(texts, "why?", **limit).passages
        ]


def test_ids_scores_and_metadata_come_back_and_inputs_stay():
    metadata = {"page": 3, "nested": {"a": [1]}}
    passages = [Passage("b", "One here. Two there. Three.", 0.5, metadata), Passage("a", "Four. Five.", None, {})]
    before = repr(passages)
    result = TextCompressor(Seeded()).compress(passages, "q?", keep_ratio=0.3)
    assert [(p.id, p.score) for p in result.passages] == [("b", 0.5), ("a", None)]
    assert result.passages[0].metadata == metadata
    assert repr(passages) == before


def test_budget_is_global_relevant_passages_keep_more():
    texts = ["Nothing of interest. Bananas are yellow.", "The tower is 330 metres tall. The tower opened in 1889."]
    result = TextCompressor(Lexical()).compress(texts, "How many metres tall is the tower?", keep_ratio=0.5)
    assert result.passages[0].is_empty
    assert "330 metres" in result.text


def test_one_whole_unit_is_always_kept_under_a_ratio():
    text = "A first sentence that has quite some words in it. A second one."
    result = TextCompressor(Lexical()).compress([text], "first sentence", keep_ratio=0.01)
    assert result.text == "A first sentence that has quite some words in it."


def test_best_sentence_that_is_too_long_is_cut_around_what_matters():
    text = "No. Well before the end, long after it began, the tower is 330 metres tall, they say, in the end. Yes."
    result = TextCompressor(Lexical()).compress([text], "How many metres tall is the tower?", token_budget=7)
    assert result.n_tokens_out <= 7
    assert "tower is 330 metres tall" in result.text


def test_dynamic_spends_the_rest_on_a_window_in_document_order():
    text = "The tower is tall. Somewhere in the middle of nowhere the tall tower opened in 1889 to the public. Bananas."
    result = TextCompressor(Lexical()).compress([text], "tall tower", token_budget=9, unit="dynamic")
    assert result.n_tokens_out == 9
    assert result.text.startswith("The tower is tall.")
    spans = result.passages[0].spans
    assert spans == tuple(sorted(spans))


def test_threshold_may_keep_everything_or_nothing():
    compressor = TextCompressor(Seeded())
    assert compressor.compress(["One. Two."], "q", threshold=1e9).text == ""
    assert compressor.compress(["One. Two."], "q", threshold=-1e9).text == "One. Two."


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("numbers", "3.5 km/h"),
        ("numbers", "$1,200"),
        ("numbers", "42 %"),
        ("dates", "12 March 2024"),
        ("dates", "2024-03-12"),
        ("urls", "https://example.org/a?b=1"),
        ("code", "`pip install x`"),
        (r"ISO-\d+", "ISO-9001"),
    ],
)
def test_protected_patterns_survive(name, needle):
    text = f"The best sentence is about towers. Far away stands {needle} in a dull sentence. Towers again, towers."
    compressor = TextCompressor(Lexical(), unit="sentence")
    assert needle not in compressor.compress([text], "towers", keep_ratio=0.6).text
    assert needle in compressor.compress([text], "towers", keep_ratio=0.75, protect=name).text
    hard = compressor.compress([text], "towers", token_budget=8, protect=name)
    assert needle in hard.text
    assert hard.n_tokens_out <= 8


def test_a_match_of_nothing_protects_nothing():
    compressor = TextCompressor(Lexical())
    assert compressor.compress(["One two. Three 4 five."], "x", threshold=99, protect=r"\d*").text == "4"


def test_beside_a_cut_the_budget_is_spent_on_what_fits():
    hashes = ["0123456789abcdef" * 4 + f"{i}." for i in range(9)]
    compressor = TextCompressor(Lexical(), count_tokens=len)
    kept = compressor.compress(
        ["zebra.tar " + "0f" * 60 + ".", "The zebra came on 12 May.", *hashes], "zebra.tar?", token_budget=60
    )
    assert kept.text == "zebra.tar\n\nThe zebra came on 12 May."
    assert compressor.compress(hashes, "0123", token_budget=40).text.strip(".") == ""


def test_default_limit_is_replaced_by_another_kind_of_limit():
    compressor = TextCompressor(Lexical(), keep_ratio=0.5, unit="phrase")
    assert compressor.compress(["a b c d"], "d").n_tokens_out == 2
    assert compressor.compress(["a b c d"], "d", token_budget=1).text == "d"


def test_scores_are_remembered_for_another_budget():
    scorer = Seeded()
    compressor = TextCompressor(scorer, cache_size=1)
    assert not compressor.compress(["One. Two. Three."], "q", keep_ratio=0.5).from_cache
    assert compressor.compress(["One. Two. Three."], "q", token_budget=3).from_cache
    compressor.compress(["Other. One."], "q", keep_ratio=0.5)
    assert not compressor.compress(["One. Two. Three."], "q", keep_ratio=0.5).from_cache
    assert scorer.calls == [1, 1, 1]


def test_tokenizers_are_counters():
    from ctxcompress_integrations.testing.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    text = "The tower is 330 metres tall. It was built in 1889. Paris is the capital."
    result = TextCompressor(Lexical()).compress([text], "tower", token_budget=30, count_tokens=tokenizer)
    assert 0 < len(tokenizer.encode(result.text, add_special_tokens=False)) == result.n_tokens_out <= 30
    inner = tokenizer.backend_tokenizer
    assert TextCompressor(Lexical()).compress([text], "tower", token_budget=30, count_tokens=inner).text == result.text


async def test_async_requests_share_batches_and_one_forward_runs_at_a_time():
    scorer = Seeded()
    scorer.gate = threading.Event()
    compressor = TextCompressor(scorer, keep_ratio=0.5)
    tasks = [asyncio.create_task(compressor.acompress([f"One {i}. Two. Three."], "q")) for i in range(20)]
    await asyncio.sleep(0.1)
    scorer.gate.set()
    results = await asyncio.gather(*tasks)
    assert scorer.most_running == 1
    assert sum(scorer.calls) == 20
    assert len(scorer.calls) <= 3
    scorer.gate = None
    for i, result in enumerate(results):
        assert result.text == TextCompressor(Seeded(), keep_ratio=0.5).compress([f"One {i}. Two. Three."], "q").text


async def test_a_failing_request_does_not_take_its_neighbours_down_and_cancelling_costs_nothing():
    scorer = Seeded()
    scorer.gate = threading.Event()
    compressor = TextCompressor(scorer, keep_ratio=0.5)
    first = asyncio.create_task(compressor.acompress(["First. One."], "q"))
    await asyncio.sleep(0.05)
    good = asyncio.create_task(compressor.acompress(["Good. One."], "q"))
    bad = asyncio.create_task(compressor.acompress(["boom. One."], "q"))
    dropped = asyncio.create_task(compressor.acompress(["Dropped. One."], "q"))
    await asyncio.sleep(0.05)
    dropped.cancel()
    await asyncio.sleep(0)
    scorer.gate.set()
    assert (await first).text
    assert (await good).text
    with pytest.raises(RuntimeError, match="boom"):
        await bad
    assert 4 not in scorer.calls
    with pytest.raises(ValueError, match="blank"):
        await compressor.acompress(["x"], " ")


def test_scores_that_are_no_numbers_are_refused(monkeypatch):
    broken = Relevance(np.array([[0, 3]]), np.array([np.nan], dtype=np.float32), None)
    monkeypatch.setattr(Seeded, "relevance", lambda *_: broken)
    with pytest.raises(UnsupportedModelError, match=r"'seeded' gave scores that are not finite"):
        TextCompressor(Seeded(), keep_ratio=0.5).compress(["One. Two."], "q")


async def test_a_request_that_fails_alone_is_tried_once():
    scorer = Seeded()
    with pytest.raises(RuntimeError, match="boom"):
        await TextCompressor(scorer, keep_ratio=0.5).acompress(["boom. One."], "q")
    assert scorer.calls == [1]


class Panic(BaseException):
    """What compiled tokenizers raise: no ``Exception``."""


@pytest.mark.parametrize("raised", [Panic, SystemExit, KeyboardInterrupt])
def test_every_request_of_a_batch_gets_its_outcome(raised):
    def counted(text):
        if "boom" in text:
            raise raised
        return len(text)

    scorer = Seeded()
    scorer.gate = threading.Event()
    compressor = TextCompressor(scorer, token_budget=5, count_tokens=counted)
    texts = ["First. One.", "Good. One.", "boom. One.", "Another. One."]
    futures = [compressor._batcher.submit(compressor._request([text], "q", {})) for text in texts]
    scorer.gate.set()
    for text, future in zip(texts, futures, strict=True):
        if "boom" in text:
            with pytest.raises(raised):
                future.result(10)
        else:
            assert future.result(10).text


@pytest.mark.parametrize("unit", ["sentence", "phrase"])
def test_a_megabyte_passage(unit):
    text = "The river runs past the mill, and the mill is old. " * 20_000
    result = TextCompressor(Lexical()).compress([text, "Short one."], "old mill?", token_budget=50, unit=unit)
    assert 40 <= result.n_tokens_out <= 50
