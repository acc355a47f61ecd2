"""Our own compressors and stores under the suites that we publish."""

import numpy as np
import pytest

from ctxcompress_integrations import CompressedIndex, TextCompressor
from ctxcompress_integrations.langchain import ContextDocumentCompressor
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.scorers.quito import Quito
from ctxcompress_integrations.scorers.quito_x import QuitoX
from ctxcompress_integrations.testing import (
    DocumentCompressorConformance,
    PassageStoreConformance,
    TextCompressorConformance,
    tiny_decoder,
    tiny_t5,
)


class TestLexical(TextCompressorConformance):
    @pytest.fixture
    def compressor(self):
        return TextCompressor(Lexical())


@pytest.fixture(scope="module")
def mini():
    return Mini.load(device="cpu")


class TestMini(TextCompressorConformance):
    @pytest.fixture
    def compressor(self, mini):
        return TextCompressor(mini)


class RandomWeights(TextCompressorConformance):
    """What does not ask for understanding."""

    def test_something_is_kept_under_a_ratio_and_the_answer_first(self, compressor):
        assert compressor.compress(["One sentence only, which is long."], "why?", keep_ratio=0.01).text


class TestQuito(RandomWeights):
    @pytest.fixture
    def compressor(self):
        return TextCompressor(Quito(*tiny_decoder("qwen2")))


class TestQuitoX(RandomWeights):
    @pytest.fixture
    def compressor(self):
        return TextCompressor(QuitoX(*tiny_t5()))


class TestDocumentCompressor(DocumentCompressorConformance):
    @pytest.fixture
    def compressor(self):
        return ContextDocumentCompressor(method="lexical", keep_ratio=0.3, drop_empty=False)


class Words:
    """Deterministic bag of words."""

    name = "words"

    def embed_documents(self, texts):
        vectors = np.full((len(texts), 64), 1e-3, dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                row[sum(map(ord, word)) % 64] += 1
        return vectors

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class TestIndex(PassageStoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        with CompressedIndex.create(tmp_path / "x.index", embedder=Words()) as index:
            yield index
