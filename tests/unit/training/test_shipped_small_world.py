"""The weights that ship: small, plain about what they are, and right about documents that they never saw."""

import json

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from ctxcompress_integrations.cli import app
from ctxcompress_integrations.hf.load import mini_folder, shipped
from ctxcompress_integrations.readers import load_reader
from ctxcompress_integrations.summarizers import load_summarizer
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.exact import exact_match, is_exact
from ctxcompress_integrations.training.loop import plain
from ctxcompress_integrations.training.small_world import ABOUT
from ctxcompress_integrations.training.small_world_plan import PARTS, Plan
from ctxcompress_integrations.training.small_world_studies import asked

pytestmark = pytest.mark.skipif(mini_folder() is None, reason="the extra 'offline' is not installed")
N = 60


@pytest.fixture(scope="module")
def reader():
    return load_reader("small-world", device="cpu")


@pytest.fixture(scope="module")
def examples():
    return asked(world.documents(world.TRAINED, "test", N))


def test_they_are_small_and_say_what_they_are():
    files = {part: shipped(part) for part in ("reader", *PARTS)}
    assert sum(path.stat().st_size for path in files.values()) <= 40e6
    for path in files.values():
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["card"])
        assert card["about"] == ABOUT
        assert "demonstration on synthetic text" in ABOUT
        assert card["plan"] == plain(Plan(seed=card["plan"]["seed"]))


def test_the_reader_answers_from_text_and_not_without(reader, examples):
    assert exact_match(reader, examples) >= 0.9
    assert exact_match(reader, examples, has_context=False) <= 0.2


@pytest.mark.parametrize("part", PARTS)
def test_every_summarizer_keeps_what_is_asked_for(part, reader, examples):
    summarizer = load_summarizer(part, model="small-world", device="cpu")
    texts = [example.passages[0].text for example in examples]
    summaries = summarizer.summarize(texts)
    assert all(one.reader == reader.identity for one in summaries)
    assert sum(one.n_tokens for one in summaries) >= 12 * sum(one.n_vectors for one in summaries)
    found = exact_match(reader, examples, summarize=summarizer.summarize)
    other = exact_match(reader, examples, summarize=lambda given: summaries[1:] + summaries[:1])
    assert found >= 0.75
    assert other <= 0.25, "another document's vectors answer nothing"


def test_the_command_line_gives_it_what_it_has_room_for(tmp_path):
    documents = list(world.documents(world.TRAINED, "test", 24))
    for number in range(4):
        texts = "\n\n".join(one.text for one in documents[6 * number : 6 * number + 6])
        (tmp_path / f"{number}.txt").write_text(texts)
    index, example = tmp_path / "my.index", documents[0].examples[0]
    run("index", *tmp_path.glob("*.txt"), "--index", index)
    run("summarize", "--index", index, "--method", "autocompressor", "--model", "small-world")
    answer = json.loads(run("ask", example.question, "--index", index, "--reader", "local", "--json").stdout)
    assert answer["n_positions"] <= 512
    assert is_exact(answer["answer"], example)


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done
