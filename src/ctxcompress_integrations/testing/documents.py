"""What every LangChain document compressor that shortens documents should hold."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

PARTS = ["The tower is 330 metres tall. It is old.", "Bananas are yellow. 塔很高。", "", "Ü 😀 नमस्ते।"]
QUERY = "How tall is the tower?"


class DocumentCompressorConformance:
    """Inherit and override ``compressor``: one that returns every document, shortened."""

    @pytest.fixture
    def compressor(self) -> Any:
        """The compressor under test."""
        pytest.fail("override the fixture 'compressor'")

    @pytest.fixture
    def documents(self) -> list[Any]:
        """Documents in several scripts, one of them empty, with ids that are missing or repeat."""
        from langchain_core.documents import Document

        ids = ["a", "b", "b", None]
        return [Document(id=i, page_content=t, metadata={"k": [1]}) for i, t in zip(ids, PARTS, strict=True)]

    def test_ids_and_metadata_survive_in_order(self, compressor: Any, documents: list[Any]) -> None:
        found = compressor.compress_documents(documents, QUERY)
        assert [d.id for d in found] == [d.id for d in documents]
        assert all(d.metadata["k"] == [1] for d in found)

    def test_inputs_are_not_changed(self, compressor: Any, documents: list[Any]) -> None:
        before = [d.model_dump_json() for d in documents]
        for document in compressor.compress_documents(documents, QUERY):
            document.metadata["k"].append(2)
            document.metadata["new"] = 1
        assert [d.model_dump_json() for d in documents] == before

    def test_text_never_grows_and_is_taken_from_the_document(self, compressor: Any, documents: list[Any]) -> None:
        for before, after in zip(documents, compressor.compress_documents(documents, QUERY), strict=True):
            assert len(after.page_content) <= len(before.page_content)
            rest = iter(before.page_content)
            assert all(character in rest for character in after.page_content if not character.isspace())

    async def test_async_gives_the_same(self, compressor: Any, documents: list[Any]) -> None:
        found = compressor.compress_documents(documents, QUERY)
        later = await compressor.acompress_documents(documents, QUERY)
        assert [d.page_content for d in later] == [d.page_content for d in found]

    def test_pickle_keeps_the_configuration(self, compressor: Any) -> None:
        assert pickle.loads(pickle.dumps(compressor)) == compressor  # noqa: S301 - made a line above

    def test_no_documents(self, compressor: Any) -> None:
        assert list(compressor.compress_documents([], QUERY)) == []
