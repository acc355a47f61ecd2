"""The command line as a user meets it: exit codes, one-line errors with the cure, JSON for machines."""

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctxcompress_integrations import CompressedIndex, Passage
from interruptible import INTERRUPTIBLE

PROGRAM = [sys.executable, "-c", "from ctxcompress_integrations.cli import main; main()"]


def run(*arguments, stdin=None, cwd=None):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=120, cwd=cwd
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    docs = root / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "tower.md").write_text("The tower is 330 metres tall. It was built in 1889.\n\nMany people visit it.")
    (docs / "sub" / "fruit.txt").write_text("Bananas are yellow. " * 100, encoding="utf-8")
    (docs / "rows.jsonl").write_text(
        '{"id": "r1", "text": "Der Turm ist hoch.", "metadata": {"lang": "de"}}\nnot json\n'
    )
    (docs / "more.jsonl.gz").write_bytes(gzip.compress(b'{"context": "A context.", "title": "T"}\n'))
    (docs / "binary.txt").write_bytes(b"\x00\x01\x02")
    (docs / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (docs / "empty.txt").write_text("")
    (docs / ".hidden.txt").write_text("hidden")
    (docs / "picture.png").write_bytes(b"png")
    made = run("index", docs, "--index", root / "x.index", "--json")
    assert made.returncode == 0, made.stderr
    return root, json.loads(made.stdout)


def test_index_reads_what_is_text_and_counts_what_is_not(folder):
    root, figures = folder
    assert figures["n_skipped"] == 5
    assert {Path(name).name.split(":")[0] for name, _ in figures["skipped"]} == {
        "binary.txt",
        "latin.txt",
        "empty.txt",
        "picture.png",
        "rows.jsonl",
    }
    again = run("index", root / "docs", "--index", root / "x.index")
    assert "0 new or changed" in again.stdout
    assert "skipped 5" in again.stderr
    assert "no problems" in run("verify", root / "x.index").stdout


def test_index_follows_its_files(tmp_path):
    (tmp_path / "notes.txt").write_text("The river is long and slow. " * 30)
    (tmp_path / "page.html").write_text("<p>A page.</p>")
    arguments = ("index", ".", "--index", "x.index", "--json", "--chunk-chars", 200)
    first = json.loads(run(*arguments, cwd=tmp_path).stdout)
    assert first["n_passages"] >= 4
    (tmp_path / "notes.txt").write_text("The river is short.")
    second = json.loads(run(*arguments, cwd=tmp_path).stdout)
    assert (second["n_passages"], second["n_changed"]) == (1, 1)
    assert second["n_removed"] == first["n_passages"] - 1
    assert second["skipped"] == [["page.html", "no text file by its name"]], "the index itself is not read"


def test_verify_says_what_is_damaged(tmp_path):
    with CompressedIndex.create(tmp_path / "x.index", embedder=None, dimension=2) as index:
        index.add([Passage("a", "The river is long.")], vectors=[[1, 0]])
    (tmp_path / "x.index" / "index.faiss").write_bytes(b"short")
    checked = run("verify", "x.index", "--json", cwd=tmp_path)
    assert checked.returncode == 1
    assert "index.faiss" in json.loads(checked.stdout)["problems"][0]
    assert "Traceback" not in checked.stderr


def test_ask(folder, tmp_path):
    root, _ = folder
    html = tmp_path / "answer.html"
    asked = run("ask", "How tall is the tower?", "--index", root / "x.index", "--json", "--html", html, "--k", 3)
    answer = json.loads(asked.stdout)
    assert "330 metres" in answer["text"]
    assert answer["n_tokens_out"] <= answer["n_tokens_in"]
    first = answer["passages"][0]
    assert first["metadata"]["source"].endswith("tower.md")
    assert "330" in html.read_text(encoding="utf-8")
    german = run("ask", "tower", "--index", root / "x.index", "--where", "lang=de", "--method", "lexical", "--json")
    assert [p["id"] for p in json.loads(german.stdout)["passages"]] == ["r1"]
    shown = run("ask", "How tall is the tower?", "--index", root / "x.index", "--method", "lexical")
    assert shown.returncode == 0
    assert "tokens" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ask", "x", "--index", "nowhere"], 1, "no index at nowhere"),
        (["ask", "x"], 2, "--index"),
        (["verify", "nowhere"], 1, "no index"),
        (["index", "nowhere.txt", "--index", "y"], 1, "does not exist"),
        (["compress", "--query", "q", "--keep-ratio", "3"], 2, "3.0"),
        (["compress", "--query", "q", "--method", "nothing"], 2, "no scorer 'nothing'"),
        (["compress", "--query", "q", "--unit", "chapter"], 2, "chapter"),
        (["compress", "--query", " "], 2, "must not be blank"),
        (["compress"], 1, "line 1"),
        (["bench", "nothing"], 2, "nothing"),
    ],
)
def test_errors_are_one_line_with_the_cure(tmp_path, arguments, code, message):
    failed = run(*arguments, stdin="no json", cwd=tmp_path)
    assert failed.returncode == code
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    if code == 1:
        assert len(failed.stderr.strip().splitlines()) == 1


def test_compress_plain_text_and_json_lines():
    text = "The tower is 330 metres tall. It is old.\n\nBananas are yellow."
    plain = run("compress", "--query", "How tall?", "--method", "lexical", "--token-budget", 6, stdin=text)
    assert plain.stdout.strip() == "The tower is 330 metres tall."
    request = {"query": "tower?", "passages": ["The tower. Bananas.", {"id": "x", "text": "Apples. Pears."}]}
    lines = run("compress", "--method", "lexical", "--token-budget", 2, stdin=json.dumps(request) + "\n")
    answer = json.loads(lines.stdout)
    assert [p["id"] for p in answer["passages"]] == ["0", "x"]
    assert answer["passages"][0]["text"] == "The tower."
    half = json.dumps({"query": "tower?", "passages": ["The \ud83d tower. Bananas."]})
    lines = run("compress", "--method", "lexical", "--keep-ratio", 1.0, stdin=half)
    assert json.loads(lines.stdout)["text"] == "The \ud83d tower. Bananas."


def test_compress_many_requests_as_lines_or_as_one_document(tmp_path):
    requests = [{"query": "tower?", "passages": [f"The tower {i}. Bananas."]} for i in range(70)]
    requests[3]["passages"] = [{"id": "x", "text": "A tower.\u2028A pear.", "metadata": {"page": 7}}]
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps(request, ensure_ascii=False) for request in requests), encoding="utf-8")
    arguments = ("compress", file, "--method", "lexical", "--keep-ratio", 0.5)
    lines = [json.loads(line) for line in run(*arguments).stdout.splitlines()]
    assert [line["text"] for line in lines[:3]] == ["The tower 0.", "The tower 1.", "The tower 2."]
    assert lines[3]["passages"][0]["metadata"] == {"page": 7}
    assert json.loads(run(*arguments, "--json").stdout) == lines
    assert len(lines) == 70
    wrong = run("compress", "--method", "lexical", stdin='{"query": "q", "passages": "no list"}')
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "must be a list" in wrong.stderr


def test_doctor_and_version():
    report = json.loads(run("doctor", "--json").stdout)
    assert report["problems"] == []
    assert report["packages"]["torch"]
    assert "sha256 right" in report["mini"]
    assert run("--version").stdout.startswith("ctxcompress 0.")
    assert "ask" in run("--help").stdout


def test_interrupted_indexing_keeps_what_was_committed(tmp_path):
    rows = "".join(
        json.dumps({"id": str(i), "text": f"Passage {i} is about rivers. " * 12}) + "\n" for i in range(6000)
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    child = subprocess.Popen(
        [*INTERRUPTIBLE, "index", "rows.jsonl", "--index", "x.index"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "x.index" / "passages.sqlite").exists() or child.poll() is not None:
            break
    time.sleep(2)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "run the command again" in errors
    assert "Traceback" not in errors
    assert "no problems" in run("verify", "x.index", cwd=tmp_path).stdout
