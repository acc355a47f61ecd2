"""The commands that train summarizers and adapters, end to end on a tiny reader."""

import json

import pytest
from typer.testing import CliRunner

from ctxcompress_integrations import CompressedIndex
from ctxcompress_integrations.cli import app
from ctxcompress_integrations.summarizers import load_summarizer
from ctxcompress_integrations.testing.tiny import tiny_decoder
from ctxcompress_integrations.training import world

pytest.importorskip("faiss")


class Letters:
    """An embedder that needs no model."""

    def embed_documents(self, texts):
        return [[float(text.count(c)) + 1e-3 for c in "aeioutr"] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_summarizer_and_an_adapter_are_trained_by_command(tmp_path):
    model, tokenizer = tiny_decoder()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "reader")
    made = list(world.documents(["ships"], "train", 8, n_facts=2))
    data, weights, index = tmp_path / "world.jsonl", tmp_path / "w.safetensors", tmp_path / "index"
    world.write(data, made)
    with data.open("a") as file:
        file.write(json.dumps({"question": "who?", "context": "Nobody.", "answers": []}) + "\n")
    names = ("--model", tmp_path / "reader", "--device", "cpu", "--batch", 2)
    sizes = ("--vectors", 4, "--ratio", 2, "--rank", 2, "--pretraining", 4, "--questions", 2, "--align", "sentences")
    done = call("train", "soft", data, "--out", weights, "--method", "icae", *names, *sizes)
    assert done.exit_code == 0, done.output
    assert f"wrote {weights}: answer" in done.output
    assert "1 questions left out: they have no answer" in done.output
    assert weights.with_suffix(".curves.json").exists()
    summarizer = load_summarizer("icae", model=str(tmp_path / "reader"), weights=weights, device="cpu")
    assert summarizer.align == "sentences"
    with CompressedIndex.create(index, embedder=Letters()) as opened:
        opened.add([one.passage for one in made])
        opened.build_summaries(summarizer)
    done = call("train", "lloco", data, "--index", index, "--out", tmp_path / "adapter", *names, "--epochs", 1)
    assert done.exit_code == 0, done.output
    with CompressedIndex.open(index, embedder=Letters(), read_only=True) as opened:
        assert [adapter.name for adapter in opened.adapters.values()] == [str(tmp_path / "adapter")]
    assert call("train", "soft", data, "--out", tmp_path / "no" / "w", *names).exit_code == 2
    assert call("train", "soft", data, "--out", tmp_path, *names).exit_code == 2
    nothing = call("train", "soft", data, "--out", tmp_path / "v", *names, "--pretraining", 0, "--questions", 0)
    assert nothing.exit_code == 2
    assert "one of the two must have steps" in " ".join(nothing.output.replace("│", " ").split())


def test_the_small_world_is_made_by_command(tmp_path, monkeypatch):
    from ctxcompress_integrations.training import small_world
    from ctxcompress_integrations.training.loop import Progress

    def train(self):
        assert self.plan.seed == 3
        self.report("text", Progress(50, 1.0, [(50, {"answer": 0.25})], [(50, {"text": 0.5})]))
        self.path("reader").write_bytes(b"")
        curves = {"losses": [(50, {"answer": 0.25})], "dev": [(50, {"text": 0.5})]}
        (self.folder / "text.curves.json").write_text(json.dumps(curves))

    monkeypatch.setattr(small_world.SmallWorld, "train", train)
    done = call("train", "small-world", "--out", tmp_path / "new" / "folder", "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "text, step 50: answer 0.250, text 0.500" in done.output
    assert "wrote small-world-reader.safetensors" in done.output
    assert (tmp_path / "new" / "folder" / "text.curves.svg").exists()
    (tmp_path / "file").write_text("")
    assert call("train", "small-world", "--out", tmp_path / "file").exit_code == 2
