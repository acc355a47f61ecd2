"""LangChain's own chat-model suites, as published, on a text-only tiny model that is loaded from a folder."""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from ctxcompress_integrations.langchain import ChatSummaryReader
from ctxcompress_integrations.testing.tiny import tiny_decoder


@pytest.fixture
def benchmark():
    return lambda function, *arguments: function(*arguments)


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatSummaryReader

    @property
    def chat_model_params(self):
        return {"model": "tiny"}


class TestIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _folder(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("reader")
        for part in tiny_decoder("llama", n_positions=8192):
            part.save_pretrained(folder)
        cls.folder = str(folder)

    @property
    def chat_model_class(self):
        return ChatSummaryReader

    @property
    def chat_model_params(self):
        return {"model": self.folder, "max_tokens": 8}
