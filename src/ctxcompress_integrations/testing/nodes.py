"""What every LlamaIndex postprocessor that shortens nodes should hold."""

from __future__ import annotations

from typing import Any

import pytest

PARTS = ["The tower is 330 metres tall. It is old.", "Bananas are yellow. 塔很高。", "", "Ü 😀 नमस्ते।"]
QUERY = "How tall is the tower?"


class NodePostprocessorConformance:
    """Inherit and override ``postprocessor``: one that returns every node, shortened."""

    @pytest.fixture
    def postprocessor(self) -> Any:
        """The postprocessor under test."""
        pytest.fail("override the fixture 'postprocessor'")

    @pytest.fixture
    def nodes(self) -> list[Any]:
        """Nodes in several scripts, one of them empty, two with the same id."""
        from llama_index.core.schema import NodeWithScore, TextNode

        ids = ["a", "b", "b", "c"]
        made = [TextNode(text=t, id_=i, metadata={"k": [1]}) for i, t in zip(ids, PARTS, strict=True)]
        return [NodeWithScore(node=node, score=0.5) for node in made]

    def test_ids_scores_and_metadata_survive_in_order(self, postprocessor: Any, nodes: list[Any]) -> None:
        found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        assert [(n.node.node_id, n.score) for n in found] == [(n.node.node_id, n.score) for n in nodes]
        assert all(n.node.metadata["k"] == [1] for n in found)

    def test_inputs_are_not_changed(self, postprocessor: Any, nodes: list[Any]) -> None:
        before = [node.model_dump_json() for node in nodes]
        found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        for node in found:
            node.node.metadata["k"].append(2)
        assert [node.model_dump_json() for node in nodes] == before

    def test_text_never_grows_and_is_taken_from_the_node(self, postprocessor: Any, nodes: list[Any]) -> None:
        for before, after in zip(nodes, postprocessor.postprocess_nodes(nodes, query_str=QUERY), strict=True):
            text = after.node.get_content()
            assert len(text) <= len(before.node.get_content())
            rest = iter(before.node.get_content())
            assert all(character in rest for character in text if not character.isspace())

    async def test_async_gives_the_same(self, postprocessor: Any, nodes: list[Any]) -> None:
        found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        later = await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)
        assert [n.node.get_content() for n in later] == [n.node.get_content() for n in found]

    def test_no_nodes(self, postprocessor: Any) -> None:
        assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
