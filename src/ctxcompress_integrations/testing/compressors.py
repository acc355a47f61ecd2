"""What every compressor of the package's contract should hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.text.spans import join_spans

QUERY = "How tall is the tower?"
TEXTS = [
    "The tower stands in Paris. It is 330 metres tall, and it was built in 1889. Many people visit the tower.",
    "Bananas are yellow.\nThey grow in the tropics. Nobody knows why.",
    "塔很高。它高330米。很多人来看它。",
    "البرج عالٍ. ارتفاعه 330 مترًا. يزوره كثيرون.",
    "หอคอยสูงมาก มันสูง 330 เมตร คนจำนวนมากมาเยี่ยมชม",
    "यह मीनार ऊँची है। इसकी ऊँचाई 330 मीटर है। 👩‍👩‍👧 😀",
    "",
    " \u200b\u0301 ",
    "x",
]


class TextCompressorConformance:
    """Inherit and override ``compressor``: a ``TextCompressor`` without a default limit."""

    @pytest.fixture
    def compressor(self) -> Any:
        """The compressor under test."""
        pytest.fail("override the fixture 'compressor'")

    @pytest.mark.parametrize("unit", ["sentence", "phrase", "dynamic"])
    @pytest.mark.parametrize("limit", [{"keep_ratio": 0.3}, {"token_budget": 20}, {"threshold": 0.1}])
    def test_what_is_kept_is_verbatim_in_order_and_placed(self, compressor: Any, limit: Any, unit: str) -> None:
        result = compressor.compress(TEXTS, QUERY, unit=unit, **limit)
        assert [p.id for p in result.passages] == [str(i) for i in range(len(TEXTS))]
        for text, passage in zip(TEXTS, result.passages, strict=True):
            assert passage.text == join_spans(text, passage.spans)
            assert len(passage.text) <= len(text)
            assert all(a.end <= b.start for a, b in pairwise(passage.spans))

    @pytest.mark.parametrize("count", [None, len, lambda text: len(text.split()) + 1])
    def test_budget_is_never_exceeded(self, compressor: Any, count: Callable[[str], int] | None) -> None:
        counted = count or compressor.scorer.count_tokens
        for budget in (1, 2, 5, 13, 40, 10_000):
            result = compressor.compress(TEXTS, QUERY, token_budget=budget, count_tokens=count)
            assert result.n_tokens_out <= budget
            assert not result.text or counted(result.text) == result.n_tokens_out

    def test_under_budget_comes_back_untouched(self, compressor: Any) -> None:
        assert [p.text for p in compressor.compress(TEXTS, QUERY, token_budget=10_000).passages] == TEXTS
        assert [p.text for p in compressor.compress(TEXTS, QUERY, keep_ratio=1.0).passages] == TEXTS

    def test_something_is_kept_under_a_ratio_and_the_answer_first(self, compressor: Any) -> None:
        text = "Bananas are yellow. The tower is 330 metres tall. Nobody knows why."
        assert "330" in compressor.compress([text], QUERY, keep_ratio=0.4).text
        assert compressor.compress(["One sentence only, which is long."], QUERY, keep_ratio=0.01).text

    def test_same_result_alone_in_a_batch_and_again(self, compressor: Any) -> None:
        requests = [([text, TEXTS[0]], QUERY) for text in TEXTS] + [(TEXTS, "Where do bananas grow?")]
        together = compressor.compress_many(requests, keep_ratio=0.3)
        for (texts, query), result in zip(requests, together, strict=True):
            alone = compressor.compress(texts, query, keep_ratio=0.3)
            assert [p.spans for p in alone.passages] == [p.spans for p in result.passages]

    async def test_async_gives_the_same(self, compressor: Any) -> None:
        later = await compressor.acompress(TEXTS, QUERY, keep_ratio=0.3)
        assert [p.spans for p in later.passages] == [
            p.spans for p in compressor.compress(TEXTS, QUERY, keep_ratio=0.3).passages
        ]

    def test_bad_input_is_refused(self, compressor: Any) -> None:
        for passages, query, limit in (
            (TEXTS, " ", {"keep_ratio": 0.5}),
            ([Passage("a", "x"), Passage("a", "y")], QUERY, {"keep_ratio": 0.5}),
            ([None], QUERY, {"keep_ratio": 0.5}),
            (TEXTS, QUERY, {"keep_ratio": float("nan")}),
            (TEXTS, QUERY, {"token_budget": 0}),
            (TEXTS, QUERY, {"keep_ratio": 0.5, "token_budget": 5}),
        ):
            with pytest.raises(ValueError, match=r"\S"):
                compressor.compress(passages, query, **limit)

    def test_no_passages(self, compressor: Any) -> None:
        assert compressor.compress([], QUERY, keep_ratio=0.5).passages == []
