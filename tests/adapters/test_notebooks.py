"""The notebooks run from top to bottom as they are shipped, each in a kernel of its own."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name):
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(outputs):
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.enable_socket  # a kernel is spoken to through sockets of this machine
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["langchain_rag", "llama_index_query_engine"])
def test_notebook_runs(name):
    outputs = run(name)
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("tokens" in page and "<del>" in page for page in pages), "the heat map is shown"
    text = printed(outputs)
    assert "Rollo" in text
    assert re.search(r"normans-01", text)


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["langchain_summaries", "llama_index_summaries"])
def test_notebook_of_summary_vectors_runs(name):
    text = printed(run(name))
    assert "60 computed, then 0" in text
    spent = {form: int(n) for form, n in re.findall(r"^(full text|vectors|mixed)[^:]*: (\d+) ", text, re.MULTILINE)}
    assert 8 * spent["vectors"] < spent["full text"]
    assert spent["vectors"] < spent["mixed"] <= 500


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("default")
def test_notebook_of_a_long_document_runs():
    text = printed(run("long_document"))
    for way in ("lm_infinite", "windows"):
        n_tokens, n_kept = map(int, re.search(rf"^{way}: (\d+) tokens, (\d+) kept", text, re.MULTILINE).groups())
        assert n_tokens >= 100_000
        assert 1900 <= n_kept <= 2000
    assert "1024 keys held in each layer" in text
