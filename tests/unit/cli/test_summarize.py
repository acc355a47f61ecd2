"""``summarize`` and ``ask --reader`` on a tiny random model that lies in a folder."""

import json

import pytest
from typer.testing import CliRunner

from ctxcompress_integrations.cli import app
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder

TEXT = "The tower is 330 metres tall. It stands in Paris. Many people see it every year, and most of them like it.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_decoder("llama")
    model.save_pretrained(folder / "reader")
    tokenizer.save_pretrained(folder / "reader")
    Pooled.untrained(model, tokenizer, reader=model, pool=8).save(folder / "pooled.safetensors")
    (folder / "tower.txt").write_text(TEXT)
    (folder / "fruit.txt").write_text("Bananas are yellow and grow in the tropics, where it is warm all year round.\n")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_summaries_are_built_once_and_read(folder, tmp_path):
    index, reader = tmp_path / "my.index", folder / "reader"
    assert run("index", folder / "tower.txt", folder / "fruit.txt", "--index", index).exit_code == 0
    building = ("summarize", "--index", index, "--model", reader, "--weights", folder / "pooled.safetensors")
    first = run(*building, "--dtype", "float32", "--json")
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["n_computed"] == 2
    assert found["summaries"][0]["is_built"]
    assert found["summaries"][0]["n_missing"] == 0
    again = run(*building, "--dtype", "float32")
    assert "0 computed" in again.output
    assert "pooled" in again.output

    asking = ("ask", "How tall is the tower?", "--index", index, "--method", "lexical", "--reader", reader)
    small = run(*asking, "--reader-budget", 60, "--max-new-tokens", 3, "--json")
    assert small.exit_code == 0, small.output
    answer = json.loads(small.stdout)
    assert answer["n_positions"] <= 60
    assert "vectors" in {form["form"] for form in answer["forms"]}
    local = run(*asking[:-1], "local", "--reader-model", reader, "--reader-budget", 60, "--max-new-tokens", 3, "--json")
    assert json.loads(local.stdout)["answer"] == answer["answer"]
    assert run(*asking, "--reader-model", reader).exit_code == 2
    large = run(*asking, "--max-new-tokens", 3)
    assert large.exit_code == 0, large.output
    assert "full" in large.output
    assert "reader positions" in large.output


def test_wrong_names_are_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ctxcompress_integrations.hf.load.SHIPPED", tmp_path)
    index = tmp_path / "my.index"
    run("index", folder / "tower.txt", "--index", index)
    for arguments, message in [
        (("summarize", "--index", tmp_path / "none"), "there is no index"),
        (("summarize", "--index", index, "--method", "nothing"), "there is no summarizer 'nothing'"),
        (("summarize", "--index", index), "needs model"),
        (("ask", "Who?", "--index", index, "--reader", "local", "--method", "lexical"), "small-world"),
    ]:
        done = run(*arguments)
        assert done.exit_code == 1, arguments
        assert message in str(done.exception)
