"""A deterministic embedder that costs nothing and counts what it was asked for."""

import hashlib

import numpy as np
import pytest

from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.embedding import PROBE_TEXT


class HashEmbedder:
    """Random directions, seeded by the text and by ``seed``."""

    def __init__(self, dimension=16, seed=0, name="hash"):
        self.dimension, self.seed, self.name = dimension, seed, name
        self.embedded = []

    def embed_documents(self, texts):
        self.embedded += [text for text in texts if text != PROBE_TEXT]
        return [self.vector(text) for text in texts]

    def embed_query(self, text):
        return self.vector(text)

    def vector(self, text):
        digest = hashlib.sha256(f"{self.seed} {text}".encode()).digest()
        return np.random.default_rng(list(digest)).standard_normal(self.dimension) * 3.0


@pytest.fixture
def make_embedder():
    return HashEmbedder


@pytest.fixture
def embedder():
    return HashEmbedder()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my.index"


@pytest.fixture
def index(path, embedder):
    with CompressedIndex.create(path, embedder=embedder) as opened:
        yield opened
