import json

import numpy as np
import pytest

from ctxcompress_integrations.errors import (
    EmbedderMismatchError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadOnlyError,
    ModelLoadError,
    UnsupportedModelError,
)
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.manifest import Manifest
from ctxcompress_integrations.records import Passage


def passages(*ids, text="text of {}", **metadata):
    return [Passage(id_, text.format(id_), metadata=metadata) for id_ in ids]


def ids_of(found):
    return [passage.id for passage in found]


def test_what_goes_in_comes_out_unchanged(index):
    metadata = {"page": 3, "tags": ["a", "ü"], "nested": {"x": None, "y": True}, 'we"ird.key[0]': 1.5}
    given = [Passage("a", "Ein Text\nmit 😀 und \0", score=0.3, metadata=metadata), Passage("b ü", "")]
    assert index.add(given) == 2
    assert index.get(["b ü", "no", "a", "a"]) == [given[1], *[Passage("a", given[0].text, None, metadata)] * 2]
    assert len(index) == 2
    assert "a" in index
    assert "no" not in index
    assert 3 not in index
    assert index.ids() == ["a", "b ü"]


def test_scores_are_true_cosines_best_first(index, embedder):
    index.add(passages(*"abcdefghij"))
    found = index.search("some query", k=4)
    query = embedder.vector("some query")
    cosines = {
        id_: float(query @ (v := embedder.vector(f"text of {id_}")) / np.linalg.norm(query) / np.linalg.norm(v))
        for id_ in "abcdefghij"
    }
    assert ids_of(found) == sorted(cosines, key=cosines.get, reverse=True)[:4]
    assert [p.score for p in found] == pytest.approx([cosines[p.id] for p in found], abs=1e-6)
    assert index.search("text of c", k=1)[0].score == pytest.approx(1.0, abs=1e-6)


def test_search_gives_what_there_is_and_one_batch_equals_single_queries(index):
    assert index.search("anything") == []
    assert index.search_many([]) == []
    index.add(passages("a", "b"))
    assert len(index.search("anything", k=100)) == 2
    many = index.search_many(["x", "text of b"], k=2)
    assert many == [index.search("x", k=2), index.search("text of b", k=2)]


def test_search_by_vector_and_vectors_of(index, embedder):
    index.add(passages("a", "b", "c"))
    vectors = index.vectors_of(["c", "a"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert index.search_vector(7.0 * vectors[0], k=1) == index.search("text of c", k=1)
    assert index.vectors_of([]).shape == (0, 16)
    with pytest.raises(ValueError, match="'z'"):
        index.vectors_of(["a", "z"])
    for wrong in ([1.0], [0.0] * 16, [float("nan")] * 16):
        with pytest.raises(ValueError, match="16 finite numbers"):
            index.search_vector(wrong)


def test_vectors_that_are_known_already_are_not_made_again(path, embedder):
    with CompressedIndex.create(path, embedder=None, dimension=3) as index:
        assert index.add(passages("a", "b"), vectors=[[2, 0, 0], [0, 0, 9]], batch_size=1) == 2
        assert index.search_vector([0, 0, 1])[0].id == "b"
        assert index.add(passages("a"), vectors=[[0, 5, 0]]) == 1
        assert index.vectors_of(["a"]).tolist() == [[0, 1, 0]]
        for wrong in ([[1, 0, 0]], [[1, 0], [0, 1]], [[0, 0, 0], [1, 1, 1]]):
            with pytest.raises(ValueError, match="3 finite numbers"):
                index.add(passages("x", "y"), vectors=wrong)
        with pytest.raises(ModelLoadError, match="vectors that were given"):
            index.search("q")
        assert index.search_vector([0, 0, 1e-30])[0].id == "b"
    with CompressedIndex.create(path, embedder=None, dimension=3, exist_ok=True) as index:
        assert len(index) == 2
    for wrong in ({"dimension": 4}, {"embedder": embedder}):
        with pytest.raises(EmbedderMismatchError):
            CompressedIndex.create(path, exist_ok=True, **{"embedder": None, **wrong})
    with pytest.raises(EmbedderMismatchError, match="vectors that were given"):
        CompressedIndex.rebuild(path, embedder=embedder)
    for wrong in ({}, {"dimension": 0}, {"dimension": 3, "embedder": embedder}):
        with pytest.raises(ValueError, match="dimension"):
            CompressedIndex.create(path.with_name("other"), **{"embedder": None, **wrong})


def test_an_id_added_again_replaces_and_unchanged_text_is_not_embedded(index, embedder):
    index.add(passages("a", "b", lang="en"))
    embedder.embedded.clear()
    generation = index.generation
    assert index.add(passages("a", "b", lang="en")) == 0
    assert (embedder.embedded, index.generation) == ([], generation)

    assert index.add(passages("a", "b", lang="de")) == 2
    assert embedder.embedded == []
    assert index.generation == generation + 1
    assert index.search("text of a", k=1, where={"lang": "de"})[0].score == pytest.approx(1.0)

    assert index.add([Passage("a", "other"), *passages("b", lang="de"), Passage("c", "new")]) == 2
    assert embedder.embedded == ["other", "new"]
    assert len(index) == 3
    assert index.search("text of a", k=3)[0].score < 0.99  # the old vector is gone
    assert index.search("other", k=1)[0].id == "a"


def test_internal_numbers_never_come_back(index):
    index.add(passages("a", "b"))
    before = set(index._store.internals())
    index.delete(["a", "b"])
    index.compact()
    index.add(passages("a", "b"))
    assert before.isdisjoint(index._store.internals())


def test_delete_ignores_unknown_ids(index):
    index.add(passages("a", "b", "c"))
    assert index.delete(["b", "no", "b"]) == 1
    assert index.delete(["b"]) == 0
    assert index.delete([]) == 0
    assert "b" not in ids_of(index.search("text of b", k=3))


def test_everything_is_there_after_closing(index, path, embedder):
    index.add(passages("a", "b", "c"))
    index.delete(["b"])
    before = index.search("q")
    index.close()
    index.close()
    with CompressedIndex.open(path, embedder=embedder) as again:
        assert again.search("q") == before
        assert again.verify() == []
    assert sorted(p.name for p in path.iterdir()) == [".lock", "index.faiss", "manifest.json", "passages.sqlite"]
    with pytest.raises(ValueError, match="closed"):
        index.search("q")


def test_batches_and_progress(index, embedder):
    calls = []
    assert (
        index.add((p for p in passages(*map(str, range(10)))), batch_size=4, progress=lambda *c: calls.append(c)) == 10
    )
    assert calls == [(4, 10), (8, 10), (10, 10)]
    assert index.generation == 3


def test_a_failing_embedder_keeps_the_batches_before(index, embedder):
    real = embedder.vector
    embedder.vector = lambda text: 1 / 0 if text == "text of 5" else real(text)
    with pytest.raises(ZeroDivisionError):
        index.add(passages(*map(str, range(10))), batch_size=2)
    assert index.ids() == ["0", "1", "2", "3"]
    assert index.verify() == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ([Passage("a", "1"), Passage("b", "2"), Passage("a", "1")], "'a' is given twice"),
        (["plain text"], "expected a Passage"),
        ([Passage("", "x")], "non-empty"),
        ([Passage(3, "x")], "got 3"),
        ([Passage("a", None)], "text of 'a'"),
        ([Passage("a", "\ud800")], "valid Unicode"),
        ([Passage("a", "x", metadata={"k": {1, 2}})], "'a' holds under 'k'"),
        ([Passage("a", "x", metadata={"k": [{"deep": float("nan")}]})], "'a' holds under 'k'"),
        ([Passage("a", "x", metadata={"k": {1: 2}})], "'a' holds under 'k'"),
        ([Passage("a", "x", metadata={7: 2})], "has the key 7"),
        ([Passage("a", "x", metadata=None)], "metadata of 'a' must be a mapping"),
    ],
)
def test_bad_passages_are_named_before_any_work(index, embedder, wrong, named):
    with pytest.raises(ValueError, match=named):
        index.add([Passage("good", "good"), *wrong])
    assert len(index) == 0
    assert embedder.embedded == []


def test_bad_arguments_are_named(index):
    index.add(passages("a"))
    for k in (0, -1, True, 2.0, None):
        with pytest.raises(ValueError, match="k must be"):
            index.search("q", k=k)
    for query in ("", " \n", None, 3):
        with pytest.raises(ValueError, match="query must be"):
            index.search(query)
    with pytest.raises(ValueError, match="use search"):
        index.search_many("q")
    for call in (index.get, index.delete, index.vectors_of):
        with pytest.raises(ValueError, match="put it in a list"):
            call("a")
        with pytest.raises(ValueError, match="got 1 in it"):
            call([1])
    with pytest.raises(ValueError, match="batch_size"):
        index.add(passages("b"), batch_size=0)
    with pytest.raises(ValueError, match="unknown operator"):
        index.search("q", where={"a": {"$regex": "."}})


def test_where_narrows_the_search_and_is_exact(index):
    index.add(passages(*map(str, range(50)), lang="en"))
    index.add(passages(*map(str, range(50, 60)), lang="de"))
    best = ids_of(index.search("q", k=60))
    assert ids_of(index.search("q", k=10, where={"lang": "de"})) == [id_ for id_ in best if int(id_) >= 50]
    assert index.ids({"lang": "de"}) == [str(n) for n in range(50, 60)]
    assert index.search("q", where={"lang": "fr"}) == []


def test_create_refuses_what_is_there(index, path, embedder, make_embedder, tmp_path):
    with pytest.raises(IndexExistsError, match="already an index"):
        CompressedIndex.create(path, embedder=embedder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(IndexExistsError, match=name):
            CompressedIndex.create(tmp_path / name, embedder=embedder)
        with pytest.raises(IndexNotFoundError, match="create"):
            CompressedIndex.open(tmp_path / name)
    index.add(passages("a"))
    index.close()
    with CompressedIndex.create(path, embedder=embedder, exist_ok=True) as again:
        assert again.ids() == ["a"]
    with pytest.raises(EmbedderMismatchError):
        CompressedIndex.create(path, embedder=make_embedder(name="other", seed=1), exist_ok=True)
    with pytest.raises(ValueError, match="ivf_from"):
        CompressedIndex.create(tmp_path / "new", embedder=embedder, ivf_from=0)


def test_a_failed_creation_leaves_nothing_and_one_cut_short_starts_again(path, embedder, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no embedder"):
        CompressedIndex.create(path, embedder=object())
    assert not path.exists()

    monkeypatch.setattr(Manifest, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CompressedIndex.create(path, embedder=embedder)
    monkeypatch.undo()
    with pytest.raises(IndexNotFoundError):
        CompressedIndex.open(path)
    with CompressedIndex.create(path, embedder=embedder) as index:
        index.add(passages("a"))
        assert index.verify() == []


def test_one_writer_many_readers(index, path, embedder):
    with pytest.raises(IndexLockedError, match="read_only=True"):
        CompressedIndex.open(path, embedder=embedder)
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        for change in (lambda: reader.add([]), lambda: reader.delete([]), reader.flush, reader.compact):
            with pytest.raises(IndexReadOnlyError, match="read_only"):
                change()
    index.close()
    CompressedIndex.open(path, embedder=embedder).close()


def test_opening_nothing(tmp_path):
    for call in (CompressedIndex.open, CompressedIndex.rebuild):
        with pytest.raises(IndexNotFoundError, match="no index at"):
            call(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_manifest_says_who_embedded(index, path):
    raw = json.loads((path / "manifest.json").read_text())
    assert raw["embedder"]["name"] == index.embedder_name == "hash"
    assert raw["embedder"]["dimension"] == index.dimension == 16
    assert (raw["format"], raw["version"], raw["metric"]) == ("ctxcompress-index", 2, "cosine")


def test_zero_vector_for_one_text(path, make_embedder):
    embedder = make_embedder()
    real = embedder.vector
    embedder.vector = lambda text: np.zeros(16) if text == "nil" else real(text)
    with CompressedIndex.create(path, embedder=embedder) as index:
        with pytest.raises(UnsupportedModelError, match="'nil'"):
            index.add([Passage("a", "fine"), Passage("b", "nil")])
        assert len(index) == 0
        assert index.verify() == []
