"""``ctxcompress train probe`` as a user meets it."""

import gzip
import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ctxcompress_integrations import load_compressor
from ctxcompress_integrations.cli import app, main, train
from ctxcompress_integrations.testing.tiny import tiny_decoder
from interruptible import INTERRUPTIBLE

PROGRAM = [sys.executable, "-c", "from ctxcompress_integrations.cli import main; main()"]


def run(*arguments, cwd):
    return subprocess.run(
        [*PROGRAM, "train", *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=cwd
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, xquad):
    root = tmp_path_factory.mktemp("train")
    model, tokenizer = tiny_decoder("qwen2")
    model.save_pretrained(root / "lm")
    tokenizer.save_pretrained(root / "lm")
    lines = [json.dumps(row) for row in xquad if row["lang"] in ("en", "de")]
    (root / "rows.jsonl").write_text("\n".join(["no json", *lines[:30]]))
    (root / "more.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[30:]).encode()))
    (root / "few.jsonl").write_text(lines[0])
    (root / "bad.jsonl").write_text('{"question": "?"}\n{}')
    (root / "wrong.safetensors").mkdir()
    return root


def test_the_group_says_what_each_command_trains():
    said = " ".join(CliRunner().invoke(app, ["train", "--help"]).output.partition("Options")[0].split())
    assert [command.name for command in train.app.registered_commands if command.name not in said] == []


def test_train_and_use(folder):
    data = ("--data", "rows.jsonl", "--data", "more.jsonl.gz")
    model = folder / "lm"
    made = run("probe", "--model", model, *data, "--out", "p.st", "--json", "p.json", "--device", "cpu", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert made.stderr.startswith("rows:1 skipped: JSONDecodeError: Expecting value")
    assert "wrote p.st: 12 heads" in made.stdout
    report = json.loads((folder / "p.json").read_text())
    assert report["command"].startswith("ctxcompress train probe --model")
    values = {row["measure"]: row["value"] for row in report["rows"]}
    assert values["rows skipped"] == 1
    assert values["questions used"] + values["questions left out"] == 118
    assert 0 <= values["AUC of sentences, probe"] <= 1
    compressor = load_compressor("probe", model=str(model), weights=folder / "p.st", device="cpu", keep_ratio=0.5)
    assert compressor.compress(["The tower is high. It is old."], "How high?").text in (
        "The tower is high.",
        "It is old.",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing option"),
        (("--data", "absent.jsonl"), 2, "does not exist"),
        (("--data", "rows.jsonl", "--limit", 0), 2, "limit"),
        (("--data", "rows.jsonl", "--out", "absent/p.st"), 2, "there is no folder absent"),
        (("--data", "rows.jsonl", "--out", "wrong.safetensors"), 2, "is a directory"),
        (("--data", "bad.jsonl"), 1, "bad.jsonl has no usable row (line 1: KeyError: 'context'"),
        (("--data", "few.jsonl"), 2, "1 usable questions about 1 passages are too few"),
        (("--data", "rows.jsonl", "--model", "absent/lm"), 1, "cannot load the model 'absent/lm'"),
        (("--data", "rows.jsonl", "--template", "no place"), 1, "{passage}"),
        (("--data", "rows.jsonl", "--dtype", "int3"), 2, "dtype must be one of"),
    ],
)
def test_errors_name_the_cure_and_write_nothing(folder, arguments, code, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    defaults = {"--model": "lm", "--out": "never.st", "--device": "cpu"}
    given = [part for pair in defaults.items() if pair[0] not in arguments for part in pair]
    monkeypatch.setattr(sys, "argv", ["ctxcompress", "train", "probe", *given, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    errors = capsys.readouterr().err
    assert exit_.value.code == code, errors
    assert message in " ".join(errors.replace("│", " ").split())
    if code == 1:
        assert errors.strip().splitlines()[-1].startswith("error: ")
    assert not list(folder.glob("never*"))


def test_interrupted_training_leaves_no_file(folder):
    os.mkfifo(folder / "pipe")
    command = [*INTERRUPTIBLE, "train", "probe", "--model", "lm", "--data", "pipe", "--out", "never.st"]
    child = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    with (folder / "pipe").open("w"):  # open once the child reads
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert not list(folder.glob("never*"))
