"""The notebooks run from top to bottom as they are shipped, each in a kernel of its own."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.enable_socket  # a kernel is spoken to through sockets of this machine
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["langchain_rag", "llama_index_query_engine"])
def test_notebook_runs(name):
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("tokens" in page and "<del>" in page for page in pages), "the heat map is shown"
    text = "".join(output.get("text", "") for output in outputs)
    assert "Rollo" in text
    assert re.search(r"normans-01", text)
