"""The notebooks run from top to bottom as they are shipped, each in a kernel of its own; and so does the demo."""

import re
import subprocess
import sys
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


def check_second_act(text):
    """Five questions, each with its gold answer, then answered from text and from vectors."""
    asked = re.findall(r"^(.+\?) \| (.+)\n  text: (.*) \| (\d+) .*\n  vectors: (.*) \| (\d+) ", text, re.MULTILINE)
    assert len(asked) == 5
    gold, from_text, from_vectors = ([one[i].lower() for one in asked] for i in (1, 2, 4))
    assert sum(a == g for a, g in zip(from_text, gold, strict=True)) >= 4
    assert sum(a == g for a, g in zip(from_vectors, gold, strict=True)) >= 3
    assert all(3 * int(one[5]) < int(one[3]) for one in asked)


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
    check_second_act(text)


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["langchain_summaries", "llama_index_summaries"])
def test_notebook_of_summary_vectors_runs(name):
    text = printed(run(name))
    assert "60 computed, then 0" in text
    spent = {form: int(n) for form, n in re.findall(r"^(full text|vectors|mixed)[^:]*: (\d+) ", text, re.MULTILINE)}
    assert 8 * spent["vectors"] < spent["full text"]
    assert spent["vectors"] < spent["mixed"] <= 120


def test_demo_runs(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLES / "demo.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo-report.html").read_text().count("<del>") > 5
    found = re.findall(r"^(text|vectors): (\d+) of 40 right, (\d+) reader positions", done.stdout, re.MULTILINE)
    right, positions = ({form: int(one[i]) for form, *one in found} for i in (0, 1))
    assert right["text"] >= 30
    assert right["vectors"] >= 30
    assert 8 * positions["vectors"] < positions["text"]


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("default")
def test_notebook_of_a_long_document_runs():
    text = printed(run("long_document"))
    for way in ("lm_infinite", "windows"):
        n_tokens, n_kept = map(int, re.search(rf"^{way}: (\d+) tokens, (\d+) kept", text, re.MULTILINE).groups())
        assert n_tokens >= 100_000
        assert 1900 <= n_kept <= 2000
    assert "1024 keys held in each layer" in text
