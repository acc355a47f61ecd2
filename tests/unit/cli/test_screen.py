"""What documents, files and errors say is shown as it is, and steers no terminal."""

import sys

import pytest

from ctxcompress_integrations.allocation import Allocation, Share
from ctxcompress_integrations.cli import ask, bench, screen, train
from ctxcompress_integrations.evaluation import bench_quito
from ctxcompress_integrations.evaluation.datasets import Dataset, Problem
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.pipeline import Answer
from ctxcompress_integrations.records import CompressedPassage, CompressionResult

CODES = "10:100:20 for :smile: [bold]cement[/bold] \\[a]"
STEERING = "\x1b[31mred\x1b]0;title\x07\x9b2J\x7f"
SPELLED = r"\x1b[31mred\x1b]0;title\x07\x9b2J\x7f"


def test_plain_spells_out_what_a_terminal_would_obey():
    assert screen.plain(STEERING) == SPELLED
    assert screen.plain("over\rwritten\x08") == r"over\rwritten\x08"
    assert screen.plain("lines\nand\ttabs, of Windows\r\ntoo, é 語 🙂") == "lines\nand\ttabs, of Windows\ntoo, é 語 🙂"
    assert screen.plain("\udcff.txt") == r"\udcff.txt"


def test_ask_shows_passages_ids_and_answer_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ids = ("a:smile:\x1b[1m", "b")
    texts = (f"{CODES} {STEERING}", "")
    kept = [CompressedPassage(id_, text, (), 0.5) for id_, text in zip(ids, texts, strict=True)]
    shares = tuple(Share(id_, "pruned", 1) for id_ in ids)
    text = f"{CODES} {STEERING} " + "word " * 60
    ask._show(Answer("q", [], CompressionResult("q", kept, 2, 1), 0.1, 0.1, text, Allocation(shares, ((), ()), 7)))
    shown = capsys.readouterr().out
    assert shown.count(f"{CODES} {SPELLED}") == 2
    assert r"a:smile:\x1b[1m" in shown
    assert r"7 reader positions: a:smile:\x1b[1m pruned, b pruned" in shown
    assert "nothing" in shown
    assert shown.splitlines()[-1] == f"{CODES} {SPELLED} " + "word " * 60, "one line, however narrow the terminal"
    assert "\x1b" not in shown


def test_bench_shows_a_row_in_one_line(capsys, monkeypatch):
    row = Row("keep of my:100:.jsonl", None, "share", why=f"{CODES} {STEERING} " + "why " * 30)
    monkeypatch.setattr(bench_quito, "bench_quito", lambda report, **_: report(row))
    with pytest.raises(bench.typer.Exit):
        bench.bench("quito")
    shown = capsys.readouterr().out
    assert shown.startswith(f"keep of my:100:.jsonl: not measured: {CODES} {SPELLED} why")
    assert len(shown.splitlines()) == 1


def test_problems_of_files_are_shown_as_they_are(capsys):
    train.report_problems(Dataset("my:smile:", (), (Problem(3, STEERING),)))
    assert capsys.readouterr().err == f"my:smile::3 skipped: {SPELLED}\n"


def test_index_names_files_as_they_are(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:smile:\x1b[1m.bin").write_text("x")
    code, out, err = command("index", ".", "--index", "x.index")
    assert (code, out) == (1, "")
    assert err.startswith(r"error: nothing to index in .: skipped 1: a:smile:\x1b[1m.bin (no text file by its name)")
    assert not (tmp_path / "x.index").exists()


def test_compressed_text_is_byte_exact_for_a_program_and_plain_on_a_terminal(command, capsys, monkeypatch):
    arguments = ("compress", "--query", "red?", "--method", "lexical", "--keep-ratio", 1)
    assert command(*arguments, stdin=f"{CODES} {STEERING}") == (0, f"{CODES} {STEERING}\n", "")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    screen.echo_text(STEERING)
    assert capsys.readouterr().out == SPELLED + "\n"
