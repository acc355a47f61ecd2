"""LangChain's own suites, as published, without an exception."""

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from ctxcompress_integrations import CompressedIndex, TextCompressor
from ctxcompress_integrations.langchain import (
    CompressedIndexVectorStore,
    CompressedRetriever,
    ContextDocumentCompressor,
)
from ctxcompress_integrations.scorers.lexical import Lexical

TEXTS = [f"Passage {i} is about the river. It flows to the sea. There are {i} mills on it." for i in range(6)]


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        with CompressedIndex.create(tmp_path / "store.index", embedder=self.get_embeddings()) as index:
            yield CompressedIndexVectorStore(index, embedding=self.get_embeddings())


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, tmp_path):
        embedding = DeterministicFakeEmbedding(size=16)
        self.store = CompressedIndexVectorStore.from_texts(TEXTS, embedding, path=tmp_path / "retriever.index")
        yield
        self.store.index.close()

    @property
    def retriever_constructor(self):
        return CompressedRetriever

    @property
    def retriever_constructor_params(self):
        compressor = TextCompressor(Lexical(), keep_ratio=0.5)
        return {
            "retriever": self.store.as_retriever(),
            "compressor": ContextDocumentCompressor.from_compressor(compressor, drop_empty=False),
        }

    @property
    def retriever_query_example(self):
        return "How many mills are on the river?"
