"""A deterministic embedder that costs nothing and counts what it was asked for."""

import hashlib

import numpy as np
import pytest

from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.embedding import PROBE_TEXT
from ctxcompress_integrations.records import SummaryVectors


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


class HashSummarizer:
    """float32 ``[m, d]`` from the hash of the text, m from 1 to 4 unless given; remembers what it computed."""

    def __init__(self, name="hash", width=16, m=None, values=None):
        self.identity = {"method": "hash", "name": name, "reader": "digest of the reader"}
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.width, self.m, self.values, self.computed = width, m, values or {}, []

    def vectors(self, text):
        if text in self.values:
            return np.asarray(self.values[text], np.float32)
        dice = np.random.default_rng(list(hashlib.sha256(f"{self.fingerprint}{text}".encode()).digest()))
        return dice.standard_normal((self.m or 1 + dice.integers(4), self.width)).astype(np.float32)

    def summarize(self, passages):
        self.computed += [passage.text for passage in passages]
        return [
            SummaryVectors(p.id, self.vectors(p.text), self.fingerprint, self.identity["reader"], len(p.text))
            for p in passages
        ]


@pytest.fixture
def make_summarizer():
    return HashSummarizer


@pytest.fixture
def summarizer():
    return HashSummarizer()
