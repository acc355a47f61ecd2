"""Any embedder behind one form: texts in, unit vectors out; and the check that it is the one that made the index.

Knows no model and no host: objects are taken by the methods they have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import EmbedderMismatchError, ModelLoadError, UnsupportedModelError
from ctxcompress_integrations.index.manifest import EmbedderIdentity
from ctxcompress_integrations.text.segment import well_formed

PROBE_TEXT = "The harbour master counted nineteen ships, and wrote the number in his book."
PROBE_COSINE = 0.99  # the same weights in another precision stay above; other weights fall far below
GIVEN = "given vectors"
"""What an index without an embedder is made by."""


@dataclass(frozen=True, slots=True)
class TextEmbedder:
    """An embedder of any make.

    Attributes:
        name: what it calls itself, or the name it was loaded by.
        is_loadable: True when it was loaded by ``name``.
    """

    name: str
    is_loadable: bool
    embed_documents: Callable[[list[str]], Any]
    embed_queries: Callable[[list[str]], Any]

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 ``[n, d]``: unit vectors of texts to be found."""
        return unit_rows(self.embed_documents(list(texts)), texts, self.name)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 ``[n, d]``: unit vectors of questions."""
        return unit_rows(self.embed_queries([well_formed(text) for text in texts]), texts, self.name)


def resolve(source: object) -> TextEmbedder:
    """An embedder from a name, or from an object with one of three sets of methods: ``embed_documents`` and
    ``embed_query``; ``get_text_embedding_batch`` and ``get_query_embedding``; ``encode``.

    Raises:
        ValueError: the object has none of them.
        ModelLoadError: the name cannot be loaded.
    """
    if isinstance(source, TextEmbedder):
        return source
    model: Any = source
    if isinstance(source, str):
        from ctxcompress_integrations.hf.load import load_embedder

        model = load_embedder(source)
    documents, queries = _methods(model)
    return TextEmbedder(name_of(source), isinstance(source, str), documents, queries)


def name_of(source: object) -> str:
    """A name is its own; an object says it in ``name``, ``model_name`` or ``model``, or is called by its class."""
    if isinstance(source, str):
        return source
    for attribute in ("name", "model_name", "model"):
        value = getattr(source, attribute, None)
        if isinstance(value, str) and value not in ("", "unknown"):
            return value
    return type(source).__qualname__


def unit_rows(vectors: Any, texts: Sequence[str], name: str) -> NDArray[np.float32]:
    """float32 ``[n, d]``: what an embedder gave for ``texts``, at length 1.

    Raises:
        UnsupportedModelError: not one vector for each text, or a vector without a direction (zero, NaN, infinite).
    """
    try:
        rows = np.array(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"the embedder {name!r} gave no array of numbers: {error}") from error
    if rows.ndim != 2 or len(rows) != len(texts) or not rows.shape[1]:
        raise UnsupportedModelError(
            f"the embedder {name!r} gave an array of shape {list(rows.shape)} for {len(texts)} texts: it must give one "
            "vector for each"
        )
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 1e-12)))
    if len(wrong):
        raise UnsupportedModelError(
            f"the embedder {name!r} gave a vector that is zero or not finite for the text {texts[wrong[0]]!r:.80}: "
            "leave the text out, or use an embedder that covers it"
        )
    unit: NDArray[np.float32] = (rows / lengths[:, None]).astype(np.float32)
    return unit


def identify(embedder: TextEmbedder) -> EmbedderIdentity:
    """What to remember of an embedder: it embeds one fixed text, twice, to see whether it gives the same vector."""
    first, second = embedder.documents([PROBE_TEXT])[0], embedder.documents([PROBE_TEXT])[0]
    is_steady = first.shape == second.shape and float(first @ second) > PROBE_COSINE
    probe = tuple(round(float(x), 6) for x in first) if is_steady else None
    return EmbedderIdentity(embedder.name, len(first), embedder.is_loadable, probe)


def given_vectors(dimension: int | None) -> EmbedderIdentity:
    """The identity of an index that has no embedder: its vectors are given."""
    return EmbedderIdentity(GIVEN, whole("dimension", dimension), is_loadable=False, probe=None)


def given_rows(vectors: ArrayLike, n: int, dimension: int) -> NDArray[np.float32]:
    """float32 ``[n, d]``: vectors that the caller gave, at length 1.

    Raises:
        ValueError: another shape, or a vector without a direction (zero, NaN, infinite).
    """
    rows = np.asarray(vectors, np.float32)
    if rows.shape != (n, dimension) or not np.isfinite(rows).all() or not rows.any(axis=1).all():
        raise ValueError(
            f"a vector must be {dimension} finite numbers that are not all zero: for {n} of them an array of shape "
            f"{[n, dimension]}, got {list(rows.shape)}"
        )
    return unit_rows(rows / np.abs(rows).max(axis=1, keepdims=True), [""] * n, GIVEN)


def check(embedder: TextEmbedder, identity: EmbedderIdentity) -> None:
    """Make sure that an embedder is the one that made an index.

    What counts is the vector of the fixed text: the same model may go by another name, and another model by the same.

    Raises:
        EmbedderMismatchError: another dimension, another vector, or, where there is no vector to compare, another name.
    """
    cure = f"open the index with {identity.name!r}, or make a new one with CompressedIndex.create"
    vector = embedder.documents([PROBE_TEXT])[0]
    if len(vector) != identity.dimension:
        raise EmbedderMismatchError(
            f"the embedder {embedder.name!r} makes vectors of {len(vector)} dimensions, the index was made by "
            f"{identity.name!r} with {identity.dimension}: {cure}"
        )
    if identity.probe is None:
        is_same, how = embedder.name == identity.name, "goes by another name"
    else:
        cosine = float(vector @ np.asarray(identity.probe, np.float32))
        is_same, how = cosine >= PROBE_COSINE, f"puts the same text elsewhere (cosine {cosine:.3f})"
    if not is_same:
        raise EmbedderMismatchError(
            f"the embedder {embedder.name!r} {how} than {identity.name!r}, which made the index: {cure}"
        )


class LazyEmbedder:
    """The embedder of an index: loaded and checked when it is first needed; at once if it goes by another name."""

    def __init__(self, identity: EmbedderIdentity, source: object | None) -> None:
        if isinstance(source, EmbedderIdentity):  # no embedder: the dimension that is expected
            if source.dimension != identity.dimension:
                raise EmbedderMismatchError(
                    f"the index holds vectors of {identity.dimension} dimensions, not {source.dimension}"
                )
            source = None
        self._identity, self._source, self._lock = identity, source, Lock()
        self._embedder: TextEmbedder | None = None
        if source is not None and name_of(source) != identity.name:
            self.get()

    def get(self) -> TextEmbedder:
        """The embedder.

        Raises:
            EmbedderMismatchError: it is not the one that made the index.
            ModelLoadError: none was given, and the manifest's name cannot be loaded.
        """
        with self._lock:
            if self._embedder is None:
                embedder = resolve(self._given())
                check(embedder, self._identity)
                self._embedder = embedder
            return self._embedder

    def _given(self) -> object:
        if self._identity.name == GIVEN:
            kind = ModelLoadError if self._source is None else EmbedderMismatchError
            raise kind(
                "this index holds vectors that were given to it and has no embedder: search_vector searches it, "
                "add(..., vectors=...) adds to it; where they are lost, restore a backup or give them to a new index"
            )
        if self._source is not None:
            return self._source
        if self._identity.is_loadable:
            return self._identity.name
        raise ModelLoadError(
            f"this index was made with an embedder object ({self._identity.name!r}), which has no name to load it by: "
            "pass it, as in CompressedIndex.open(path, embedder=...)"
        )


def _methods(model: Any) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    if hasattr(model, "embed_documents") and hasattr(model, "embed_query"):
        batch = getattr(model, "embed_queries", None)
        return model.embed_documents, batch or (lambda texts: [model.embed_query(text) for text in texts])
    if hasattr(model, "get_text_embedding_batch") and hasattr(model, "get_query_embedding"):
        return model.get_text_embedding_batch, lambda texts: [model.get_query_embedding(text) for text in texts]
    if hasattr(model, "encode"):
        return getattr(model, "encode_document", model.encode), getattr(model, "encode_query", model.encode)
    raise ValueError(
        f"{model!r:.80} is no embedder: pass a name, or an object with embed_documents and embed_query, with "
        "get_text_embedding_batch and get_query_embedding, or with encode"
    )
