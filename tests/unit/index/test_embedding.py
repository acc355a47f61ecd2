import itertools
import json

import numpy as np
import pytest

from ctxcompress_integrations.errors import EmbedderMismatchError, ModelLoadError, UnsupportedModelError
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.embedding import identify, name_of, resolve, unit_rows
from ctxcompress_integrations.records import Passage


class NodeStyle:
    model_name = "node-model"

    def __init__(self, inner):
        self.inner = inner

    def get_text_embedding_batch(self, texts):
        return [list(self.inner.vector(text)) for text in texts]

    def get_query_embedding(self, text):
        return list(self.inner.vector(text))


class EncodeStyle:
    def __init__(self, inner):
        self.inner = inner

    def encode(self, texts):
        return np.array([self.inner.vector(text) for text in texts], np.float64)


class PromptStyle(EncodeStyle):
    def encode_query(self, texts):
        return self.encode(["query: " + text for text in texts])


class Unsteady:
    """Another vector for the same text each time."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def embed_documents(self, texts):
        return self.random.standard_normal((len(texts), 16))

    def embed_query(self, text):
        return self.random.standard_normal(16)


@pytest.mark.parametrize("wrap", [lambda e: e, NodeStyle, EncodeStyle], ids=["documents", "nodes", "encode"])
def test_every_kind_of_embedder_gives_the_same_unit_vectors(embedder, wrap):
    adapted = resolve(wrap(embedder))
    expected = np.array([embedder.vector(text) for text in ("a", "b")])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for got in (adapted.documents(["a", "b"]), adapted.queries(["a", "b"])):
        assert got.dtype == np.float32
        assert got == pytest.approx(expected, abs=1e-6)


def test_query_prompts_and_query_batches_are_used(embedder):
    adapted = resolve(PromptStyle(embedder))
    assert adapted.queries(["a"]) == pytest.approx(adapted.documents(["query: a"]))
    embedder.embed_queries = lambda texts: embedder.embed_documents([f"batch of {len(texts)}"] * len(texts))
    adapted = resolve(embedder)
    assert adapted.queries(["a", "b"])[1] == pytest.approx(adapted.documents(["batch of 2"])[0])


def test_names(embedder):
    unknown = NodeStyle(embedder)
    unknown.model_name = "unknown"
    assert [name_of(x) for x in ("mini", embedder, NodeStyle(embedder), EncodeStyle(embedder), unknown)] == [
        "mini", "hash", "node-model", "EncodeStyle", "NodeStyle",
    ]  # fmt: skip


def test_a_name_is_loaded_in_one_place_and_only_when_needed(path, embedder, monkeypatch):
    loaded = []
    monkeypatch.setattr("ctxcompress_integrations.hf.load.load_embedder", lambda name: loaded.append(name) or embedder)
    with CompressedIndex.create(path, embedder="some/model") as index:
        index.add([Passage("a", "x")])
    assert loaded == ["some/model"]
    loaded.clear()
    with CompressedIndex.open(path) as index:
        assert index.embedder_name == "some/model"
        assert index.get(["a"])
        assert not loaded
        assert index.search("x")[0].score == pytest.approx(1.0)
        index.search("y")
    assert loaded == ["some/model"]


def test_an_object_cannot_be_loaded_by_name(index, path):
    index.add([Passage("a", "x")])
    index.close()
    with CompressedIndex.open(path) as again:
        assert again.ids() == ["a"]
        with pytest.raises(ModelLoadError, match="embedder=") as caught:
            again.search("q")
        assert "'hash'" in str(caught.value)


def test_another_embedder_is_refused(index, path, make_embedder):
    index.close()
    with pytest.raises(EmbedderMismatchError, match="'other'"):  # by another name: at once
        CompressedIndex.open(path, embedder=make_embedder(seed=1, name="other"))
    for wrong, says in ((make_embedder(seed=1), "cosine"), (make_embedder(dimension=8), "8 dimensions")):
        with (
            CompressedIndex.open(path, embedder=wrong) as again,  # by the same name: when it is used
            pytest.raises(EmbedderMismatchError, match=says),
        ):
            again.search("q")
    with pytest.raises(ValueError, match="no embedder"):
        CompressedIndex.open(path, embedder=object())
    CompressedIndex.open(path, embedder=make_embedder()).close()  # a refused handle keeps no lock


def test_the_same_model_under_another_name_or_precision_is_accepted(index, path, make_embedder):
    index.add([Passage("a", "x")])
    index.close()
    rounded = make_embedder(name="the same in half precision")
    exact = rounded.vector
    rounded.vector = lambda text: exact(text).astype(np.float16)
    with CompressedIndex.open(path, embedder=rounded) as again:
        assert again.search("x")[0].score == pytest.approx(1.0, abs=1e-3)


def test_an_unsteady_embedder_is_known_by_its_name_alone(path, make_embedder):
    with CompressedIndex.create(path, embedder=Unsteady()) as index:
        index.add([Passage("a", "x")])
    assert json.loads((path / "manifest.json").read_text())["embedder"]["probe"] is None
    with CompressedIndex.open(path, embedder=Unsteady()) as again:
        assert len(again.search("x")) == 1
    with pytest.raises(EmbedderMismatchError, match="another name"):
        CompressedIndex.open(path, embedder=make_embedder())


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ([[1.0, 0.0]], "shape \\[1, 2\\] for 2 texts"),
        ([1.0, 2.0], "shape \\[2\\]"),
        ([[], []], "shape \\[2, 0\\]"),
        ([[1.0, 0.0], [1.0]], "no array"),
        ([[1.0, 0.0], ["x", "y"]], "no array"),
        ([[1.0, 0.0], [0.0, 0.0]], "'second'"),
        ([[1.0, 0.0], [float("nan"), 1.0]], "'second'"),
        ([[1.0, 0.0], [float("inf"), 1.0]], "'second'"),
    ],
)
def test_vectors_that_are_none(vectors, says):
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        unit_rows(vectors, ["first", "second"], "fake")
    assert "'fake'" in str(caught.value)


def test_unit_rows_keep_what_was_given_and_bear_any_scale():
    given = np.array([[3.0, 4.0], [3e-9, 4e-9], [3e30, 4e30]], np.float32)
    before = given.copy()
    assert unit_rows(given, ["a"] * 3, "x") == pytest.approx(np.array([[0.6, 0.8]] * 3), abs=1e-6)
    assert (given == before).all()


def test_identity_asks_twice(embedder):
    numbers = itertools.count()
    assert identify(resolve(embedder)).probe is not None
    embedder.vector = lambda _: np.eye(16)[next(numbers)]
    assert identify(resolve(embedder)).probe is None
