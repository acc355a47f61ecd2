"""Training end to end on a tiny base: it learns, it resumes bit for bit, it says what it cannot use."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ctxcompress_integrations import _optional, load_compressor
from ctxcompress_integrations.cli import app
from ctxcompress_integrations.errors import MissingExtraError, WeightsMismatchError
from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.hf import mini_weights, trained
from ctxcompress_integrations.hf.load import load_encoder
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.training.calibration import calibrate
from ctxcompress_integrations.training.mini import Recipe, train_mini
from signs import examples, kept


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model, tokenizer = tiny_encoder()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def recipe(base, **changes):
    return Recipe(
        **{
            "base": base,
            "layers": (0, 1),
            "n_frozen": 0,
            "n_dims": 16,
            "steps": 200,
            "lr": 3e-3,
            "eval_every": 100,
            **changes,
        }
    )


def test_200_steps_improve_on_the_start_and_the_weights_load(base, tmp_path):
    held_out = list(examples(1000, 20))
    model = mini_weights.untrained(load_encoder(base, device="cpu", dtype="float32")[0], layers=(0, 1), n_dims=16)
    start = kept(Mini(trained.TrainedEncoder(model, load_encoder(base, device="cpu")[1])), held_out)
    out = tmp_path / "mini.safetensors"
    dev = [Dataset("held-out", tuple(held_out[:16]))]
    scorer = train_mini(list(examples(0, 60)), out, recipe(base), dev=dev, calibration=dev, sources=["made up"])
    end = kept(scorer, held_out)
    assert end > start + 0.2
    assert end > 0.8
    curves = json.loads(out.with_suffix(".curves.json").read_text())
    assert [step for step, _ in curves["losses"]] == [100, 200]
    assert sum(curves["losses"][1][1].values()) < sum(curves["losses"][0][1].values())
    assert not list(tmp_path.glob("*.checkpoint"))
    loaded = load_compressor("mini", model=base, weights=str(out), device="cpu", dtype="float32")
    assert kept(loaded.scorer, held_out) == pytest.approx(end, abs=0.05)  # layers are stored in bf16
    assert set(loaded.scorer.thresholds) == {"0.002", "0.005", "0.01", "0.02", "0.05"}
    values = list(loaded.scorer.thresholds.values())
    assert values == sorted(values)
    question = held_out[0]
    auto = loaded.compress(question.passages, question.question, threshold="auto")
    assert (
        auto.text
        == loaded.compress(question.passages, question.question, threshold=loaded.scorer.default_threshold).text
    )
    with pytest.raises(WeightsMismatchError, match="pass model="):
        load_compressor("mini", weights=str(out))


def test_an_interrupted_run_goes_on_bit_for_bit(base, tmp_path):
    rows = list(examples(0, 20))
    plan = recipe(base, steps=6, eval_every=2)
    train_mini(rows, tmp_path / "whole.safetensors", plan)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_mini(rows, tmp_path / "parts.safetensors", plan, report=stop)
    assert not (tmp_path / "parts.safetensors").exists()
    steps = []
    train_mini(rows, tmp_path / "parts.safetensors", plan, report=lambda p: steps.append(p.step))
    assert steps == [3, 4, 5, 6]  # the checkpoint stands at 2
    whole, parts = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_another_recipe_is_not_mixed_in(base, tmp_path):
    rows, out = list(examples(0, 10)), tmp_path / "x.safetensors"

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_mini(rows, out, recipe(base, steps=4, eval_every=1), report=stop)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train_mini(rows, out, recipe(base, steps=4, eval_every=1, seed=1))
    with pytest.raises(ValueError, match=r"another recipe \(data: '\w+' there, '\w+' here\)"):
        train_mini(list(examples(10, 10)), out, recipe(base, steps=4, eval_every=1))


def test_frozen_layers_must_be_the_bases_first(base, tmp_path):
    with pytest.raises(ValueError, match="2 frozen layers must be the base's first"):
        train_mini(list(examples(0, 2)), tmp_path / "x.safetensors", recipe(base, layers=(1, 0), n_frozen=2))


def test_frozen_layers_stay_as_they_are_and_are_not_written(base, tmp_path):
    out = tmp_path / "x.safetensors"
    scorer = train_mini(list(examples(0, 10)), out, recipe(base, steps=3, n_frozen=1))
    start = mini_weights.untrained(load_encoder(base, device="cpu", dtype="float32")[0], layers=(0, 1), n_dims=16)
    for name, value in scorer.encoder.model.encoder.named_parameters():
        assert torch.equal(value, start.encoder.get_parameter(name)) == (not name.startswith("layers.1.")), name
    assert not any(name.startswith("encoder.layers.0.") for name in load_file(out))


def test_nothing_to_learn_from_is_an_error(base, tmp_path):
    bare = [Example("x", "Why?", (Passage("0", "Because."),))]
    with pytest.raises(ValueError, match="none of the 1 examples"):
        train_mini(bare, tmp_path / "x.safetensors", recipe(base))


def test_command_counts_wrong_rows_and_writes_weights_and_plot(base, tmp_path):
    rows = [
        json.dumps(
            {
                "question": e.question,
                "context": e.passages[0].text,
                "answers": [{"text": e.answers[0], "start": e.marked[0].start}],
            }
        )
        for e in examples(0, 8)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join([*rows[:3], "{broken", rows[3].replace('"start": ', '"start": 9'), *rows[4:]]))
    out = tmp_path / "made.safetensors"
    arguments = [
        "train",
        "mini",
        str(file),
        "--out",
        str(out),
        "--base",
        base,
        "--dims",
        "16",
        "--layers",
        "0,1",
        "--frozen",
        "1",
        "--steps",
        "2",
        "--dev",
        str(file),
        "--calibration",
        str(file),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "31 questions, 2 rows skipped" in done.output
    assert "mine:4 skipped: JSONDecodeError" in done.output
    assert out.exists()
    assert out.with_suffix(".curves.svg").exists()
    assert CliRunner().invoke(app, ["train", "mini", "--out", str(tmp_path / "no" / "x")]).exit_code == 2
    assert CliRunner().invoke(app, ["train", "mini", "--out", str(tmp_path)]).exit_code == 2
    for wrong, said in (("a", "whole numbers are needed"), ("1,0", "in order, each once"), (",", "in order")):
        again = CliRunner().invoke(app, [*arguments, "--layers", wrong])
        assert again.exit_code == 2
        assert said in again.output


def test_what_the_plot_needs_is_asked_for_before_the_training(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(_optional, "find_spec", lambda name: None)
    for command in (["mini", "x.jsonl"], ["mini-fast", "x.jsonl"], ["small-world"]):
        done = CliRunner().invoke(app, ["train", *command, "--out", str(tmp_path / "new")])
        assert isinstance(done.exception, MissingExtraError)
        assert "'matplotlib' is not installed" in str(done.exception)
    assert not (tmp_path / "new").exists()


def test_a_blank_passage_is_left_out_of_the_thresholds(base):
    model, tokenizer = load_encoder(base, device="cpu", dtype="float32")
    scorer = Mini(trained.TrainedEncoder(mini_weights.untrained(model, layers=(0, 1), n_dims=16), tokenizer))
    given = next(examples(0, 1))
    blank = replace(given, passages=(Passage("b", " \n"), *given.passages))
    found, wanted = (calibrate(scorer, [Dataset("d", (one,))]) for one in (blank, given))
    assert found == pytest.approx(wanted) != {}
    assert calibrate(scorer, [Dataset("d", (replace(given, passages=(Passage("b", " "),)),))]) == {}
