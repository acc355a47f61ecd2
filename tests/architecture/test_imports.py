"""What an import may load, and the public surface, each in a fresh interpreter."""

import subprocess
import sys

import pytest

import ctxcompress_integrations

BLOCKER = """
import sys
from importlib import util
find = util.find_spec
util.find_spec = lambda name, package=None: None if name.partition(".")[0] in {blocked!r} else find(name, package)
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(code, *, blocked=()):
    result = subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=set(blocked)) + code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def loaded_by(module):
    return set(run(f"import {module}\nprint(' '.join(sys.modules))").split())


def test_public_names_are_these():
    assert ctxcompress_integrations.__all__ == [
        "Answer",
        "CompressedIndex",
        "CompressedPassage",
        "CompressionResult",
        "Passage",
        "Pipeline",
        "Relevance",
        "Span",
        "SummaryVectors",
        "TextCompressor",
        "load_compressor",
        "load_reader",
        "load_summarizer",
    ]
    for name in ctxcompress_integrations.__all__:
        assert getattr(ctxcompress_integrations, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ctxcompress_integrations.no_such_name


def test_package_loads_no_torch_and_no_host():
    heavy = {"torch", "transformers", "faiss", "langchain_core", "llama_index", "sentence_transformers", "numpy"}
    assert not loaded_by("ctxcompress_integrations") & heavy


def test_package_imports_in_less_than_three_tenths_of_a_second():
    code = "import time; t = time.perf_counter(); import ctxcompress_integrations; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_records_and_lexical_compression_need_no_torch():
    code = """
from ctxcompress_integrations import load_compressor
print(load_compressor("lexical", keep_ratio=0.5).compress(["One tower. Two. Three."], "tower").text)
assert "torch" not in sys.modules
"""
    assert run(code, blocked=["torch", "transformers", "faiss", "langchain_core", "llama_index"]) == "One tower."


@pytest.mark.parametrize(("adapter", "other"), [("langchain", "llama_index"), ("llama_index", "langchain_core")])
def test_each_host_imports_without_the_other_and_without_torch(adapter, other):
    code = f"""
import ctxcompress_integrations.{adapter} as a
[getattr(a, name) for name in a.__all__]
assert "torch" not in sys.modules
"""
    run(code, blocked=[other, "torch", "transformers", "sentence_transformers"])


@pytest.mark.parametrize(
    ("module", "blocked", "extra"),
    [
        ("ctxcompress_integrations.langchain", "langchain_core", "langchain"),
        ("ctxcompress_integrations.llama_index", "llama_index", "llama-index"),
    ],
)
def test_missing_host_names_the_extra(module, blocked, extra):
    code = f"""
from ctxcompress_integrations.errors import MissingExtraError
try:
    import {module}
except MissingExtraError as error:
    print(error)
"""
    assert f"[{extra}]" in run(code, blocked=[blocked])


@pytest.mark.parametrize("load", ['load_compressor("mini")', 'load_reader("some/model")'])
def test_missing_torch_names_the_extra(load):
    code = f"""
from ctxcompress_integrations import load_compressor, load_reader
try:
    {load}
except ImportError as error:
    print(error)
"""
    assert "[torch]" in run(code, blocked=["torch", "transformers"])
