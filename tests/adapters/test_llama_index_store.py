"""The life of a LlamaIndex store: opened on first use, copied, pickled, shared by threads, read beside a writer."""

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from ctxcompress_integrations.errors import IndexLockedError, IndexNotFoundError, IndexReadOnlyError
from ctxcompress_integrations.llama_index import CompressedIndexVectorStore


def node(id_, **metadata):
    return TextNode(text=f"text {id_}", id_=id_, embedding=[1.0, float(len(id_)), 0.5], metadata=metadata)


def ids(store):
    return sorted(found.node_id for found in store.get_nodes())


@pytest.fixture
def store(tmp_path):
    store = CompressedIndexVectorStore(tmp_path / "li.index")
    store.add([node("a", lang="en"), node("bb", lang="de")])
    yield store
    store.close()


def test_an_index_that_a_caller_closed_is_opened_again(store):
    store.client.close()
    assert store.client.is_closed is False
    store.add([node("ccc")])
    assert ids(store) == ["a", "bb", "ccc"]


@pytest.mark.parametrize(
    "made",
    [
        copy.copy,
        copy.deepcopy,
        lambda store: store.model_copy(),
        lambda store: store.model_copy(deep=True),
    ],
)
def test_copies_change_the_same_index(store, made):
    other = made(store)
    other.add([node("ccc")])
    assert ids(store) == ids(other) == ["a", "bb", "ccc"]
    store.close()
    assert ids(other) == ["a", "bb", "ccc"]  # a use after close opens again
    assert other.client is store.client


@pytest.mark.parametrize(
    "made",
    [
        lambda store: pickle.loads(pickle.dumps(store)),
        lambda store: CompressedIndexVectorStore.from_dict(store.to_dict()),
        lambda store: CompressedIndexVectorStore.from_json(store.to_json()),
    ],
)
def test_what_was_written_down_is_a_second_handle(store, caplog, made):
    store.summaries = "fingerprint"
    other = made(store)
    assert not caplog.records, "nothing may be dropped from the pickle"
    assert (other.path, other.summaries, other.read_only) == (store.path, "fingerprint", False)
    with pytest.raises(IndexLockedError, match="read_only=True"):
        other.get_nodes()
    other.read_only = True
    assert ids(other) == ["a", "bb"]
    other.close()
    other.read_only = False
    store.close()
    other.add([node("ccc")])
    assert ids(other) == ["a", "bb", "ccc"]
    other.close()


def test_a_reader_follows_the_writer_and_changes_nothing(store):
    reader = CompressedIndexVectorStore(store.path, read_only=True)
    query = VectorStoreQuery(query_embedding=[1.0, 3.0, 0.5], similarity_top_k=1)
    assert reader.query(query).ids == ["bb"]
    store.add([node("ccc")])
    assert reader.query(query).ids == ["ccc"]
    for change in (
        lambda: reader.add([node("d")]),
        lambda: reader.delete("a"),
        lambda: reader.delete_nodes(["a"]),
        reader.clear,
    ):
        with pytest.raises(IndexReadOnlyError, match="without read_only=True"):
            change()
    reader.persist("")
    reader.close()
    again = pickle.loads(pickle.dumps(reader))
    assert again.read_only
    assert ids(again) == ["a", "bb", "ccc"]
    again.close()


def test_a_copy_with_other_fields_opens_what_they_say(store, tmp_path):
    reader = store.model_copy(update={"read_only": True})
    with pytest.raises(IndexReadOnlyError):
        reader.clear()
    other = store.model_copy(update={"path": str(tmp_path / "other.index")})
    other.add([node("d")])
    assert (ids(other), ids(reader), ids(store)) == (["d"], ["a", "bb"], ["a", "bb"])
    other.close()
    reader.close()


def test_a_reader_finds_an_index_as_soon_as_it_is_made(tmp_path):
    reader, writer = (CompressedIndexVectorStore(tmp_path / "x", read_only=is_reader) for is_reader in (True, False))
    for use in (reader.get_nodes, lambda: reader.add([node("a")])):
        with pytest.raises(IndexNotFoundError, match="no index at"):
            use()
    assert writer.get_nodes() == []
    assert not (tmp_path / "x").exists()
    writer.add([node("a")])
    assert ids(reader) == ["a"]
    reader.close()
    writer.close()


def test_threads_make_and_open_one_index(tmp_path):
    store = CompressedIndexVectorStore(tmp_path / "li.index")
    given = [node("x" * i) for i in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: store.add([one]), given))
    assert len(store.get_nodes()) == 8
    store.close()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda one: len(store.get_nodes([one.node_id])), given)) == {1}
    store.close()


async def test_gathered_first_additions_all_arrive(tmp_path):
    store = CompressedIndexVectorStore(tmp_path / "li.index")
    await asyncio.gather(*(store.async_add([node("x" * i)]) for i in range(1, 9)))
    assert len(await store.aget_nodes()) == 8
    store.close()


EMPTY = MetadataFilters(filters=[])
ENGLISH = MetadataFilter(key="lang", value="en")


@pytest.mark.parametrize(
    ("parts", "condition", "expected"),
    [
        ([EMPTY], "and", ["a", "bb"]),
        ([EMPTY], "or", ["a", "bb"]),
        ([EMPTY], "not", []),
        ([EMPTY, ENGLISH], "and", ["a"]),
        ([EMPTY, ENGLISH], "or", ["a", "bb"]),
        ([EMPTY, ENGLISH], "not", []),
        ([MetadataFilters(filters=[EMPTY])], "and", ["a", "bb"]),
    ],
)
def test_an_empty_filter_means_all_at_any_depth(store, parts, condition, expected):
    filters = MetadataFilters(filters=parts, condition=condition)
    assert sorted(found.node_id for found in store.get_nodes(filters=filters)) == expected
    query = VectorStoreQuery(query_embedding=[1.0, 1.0, 0.5], similarity_top_k=5, filters=filters)
    assert sorted(store.query(query).ids) == expected


def test_no_condition_deletes_nothing(store):
    for filters in (None, EMPTY, MetadataFilters(filters=[EMPTY])):
        store.delete_nodes(filters=filters)
    assert ids(store) == ["a", "bb"]
