"""What every store of passages with vectors should hold: upserts, deletes, filters, true similarities, reopening."""

from __future__ import annotations

from typing import Any

import pytest

from ctxcompress_integrations.records import Passage

PASSAGES = [
    Passage("a", "The tower is tall.", metadata={"lang": "en", "page": 1}),
    Passage("b", "Bananas are yellow.", metadata={"lang": "en", "page": 2}),
    Passage("c", "Der Turm ist hoch.", metadata={"lang": "de", "page": 3}),
]


class PassageStoreConformance:
    """Inherit and override ``store``: empty, with the methods of ``CompressedIndex``, and ``reopen``."""

    @pytest.fixture
    def store(self) -> Any:
        """The store under test, empty."""
        pytest.fail("override the fixture 'store'")

    def test_what_is_added_is_found_with_its_similarity(self, store: Any) -> None:
        assert store.add(PASSAGES) == 3
        best = store.search(PASSAGES[1].text, k=3)
        assert (best[0].id, best[0].text, best[0].metadata) == ("b", PASSAGES[1].text, PASSAGES[1].metadata)
        assert best[0].score == pytest.approx(1.0, abs=1e-3)
        assert [p.score for p in best] == sorted((p.score for p in best), reverse=True)

    def test_adding_again_replaces(self, store: Any) -> None:
        store.add(PASSAGES)
        store.add([Passage("b", "Apples are red.")])
        assert len(store) == 3
        assert store.get(["b"])[0].text == "Apples are red."
        assert store.search("Apples are red.", k=1)[0].id == "b"
        assert all(p.text != PASSAGES[1].text for p in store.search(PASSAGES[1].text, k=3))

    def test_deleted_is_gone_and_unknown_ids_are_ignored(self, store: Any) -> None:
        store.add(PASSAGES)
        assert store.delete(["b", "nobody"]) == 1
        assert [p.id for p in store.get(["a", "b", "c"])] == ["a", "c"]
        assert "b" not in [p.id for p in store.search(PASSAGES[1].text, k=3)]
        store.add([Passage("d", "A fourth.")])
        assert store.search("A fourth.", k=1)[0].id == "d"

    def test_filter_finds_all_that_match_and_nothing_else(self, store: Any) -> None:
        store.add(PASSAGES)
        assert [p.id for p in store.search("anything", k=3, where={"lang": "de"})] == ["c"]
        assert {p.id for p in store.search("anything", k=3, where={"page": {"$lte": 2}})} == {"a", "b"}

    def test_bad_input_is_refused(self, store: Any) -> None:
        for query, k in (("", 1), (" ", 1), ("x", 0), ("x", -1)):
            with pytest.raises(ValueError, match=r"\S"):
                store.search(query, k=k)
        with pytest.raises(ValueError, match="a"):
            store.add([PASSAGES[0], PASSAGES[0]])
