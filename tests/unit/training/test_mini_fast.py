"""The fast form of ``mini``: it comes nearer to the model that it follows, loads like any weights, and says what it
cannot do.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from ctxcompress_integrations import load_compressor
from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.hf import mini_weights
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import load_encoder
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.training.mini import Recipe, train_mini
from ctxcompress_integrations.training.mini_fast import Recipe as FastRecipe
from ctxcompress_integrations.training.mini_fast import train_mini_fast
from signs import examples, kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``(base, weights)``: a tiny base and what was trained on it."""
    folder = tmp_path_factory.mktemp("whole")
    model, tokenizer = tiny_encoder()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = str(folder / "base")
    recipe = Recipe(base=base, layers=(0, 1), n_frozen=0, n_dims=16, steps=150, lr=3e-3, eval_every=150)
    train_mini(list(examples(0, 60)), folder / "whole.safetensors", recipe)
    return base, folder / "whole.safetensors"


def recipe(base, **changes):
    return FastRecipe(
        **{"base": base, "n_heads": 1, "n_inner": 12, "steps": 120, "lr": 3e-3, "eval_every": 40, **changes}
    )


def test_it_comes_nearer_to_what_it_follows_and_loads(whole, tmp_path):
    base, weights = whole
    held_out, out = list(examples(1000, 20)), tmp_path / "fast.safetensors"
    dev = [Dataset("held-out", tuple(held_out[:16]))]
    made = train_mini_fast(list(examples(0, 60)), out, recipe(base), weights=weights, dev=dev, calibration=dev)
    curves = json.loads(out.with_suffix(".curves.json").read_text())
    first, last = curves["losses"][0][1], curves["losses"][-1][1]
    assert all(last[name] < first[name] for name in ("layers", "vectors", "scores", "among_all")), (first, last)
    followed = load_compressor("mini", model=base, weights=str(weights), device="cpu", dtype="float32")
    loaded = load_compressor("mini", model=base, weights=str(out), device="cpu", dtype="float32")
    assert {(layer.n_heads, layer.n_inner) for layer in loaded.scorer.encoder.model.encoder.layers} == {(1, 12)}
    assert kept(loaded.scorer, held_out) == pytest.approx(kept(made, held_out), abs=0.05)
    assert kept(loaded.scorer, held_out) > kept(followed.scorer, held_out) - 0.25
    assert loaded.scorer.thresholds == made.thresholds != {}
    assert not list(tmp_path.glob("*.checkpoint"))


def test_a_model_that_loses_nothing_starts_where_the_whole_one_is(whole, tmp_path):
    base, weights = whole
    encoder, _ = load_encoder(base, device="cpu", dtype="float32")
    read, _ = mini_weights.load(weights, encoder, name=base, base_sha256=weights_digest(encoder))
    first = read.encoder.layers[0]
    all_kept = recipe(base, n_heads=first.n_heads, n_inner=first.n_inner, steps=1, lr=0.0, eval_every=1)
    train_mini_fast(list(examples(0, 10)), tmp_path / "same.safetensors", all_kept, weights=weights)
    same, theirs = load_file(tmp_path / "same.safetensors"), read.state_dict()
    assert all(torch.allclose(tensor.float(), theirs[name], atol=1e-2) for name, tensor in same.items())


def test_a_checkpoint_of_other_data_or_another_model_is_not_mixed_in(whole, tmp_path):
    base, weights = whole
    rows, out, plan = list(examples(0, 10)), tmp_path / "x.safetensors", recipe(base, steps=4, eval_every=1)

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_mini_fast(rows, out, plan, weights=weights, report=stop)
    with pytest.raises(ValueError, match=r"another recipe \(data: "):
        train_mini_fast(rows[1:], out, plan, weights=weights)
    train_mini(rows, tmp_path / "other", Recipe(base=base, layers=(0, 1), n_frozen=0, n_dims=16, steps=1))
    with pytest.raises(ValueError, match=r"another recipe \(followed: "):
        train_mini_fast(rows, out, plan, weights=tmp_path / "other")


def test_what_it_cannot_do_is_said(whole, tmp_path):
    base, weights = whole
    with pytest.raises(ValueError, match="keep must be in"):
        train_mini_fast(list(examples(0, 4)), tmp_path / "x.safetensors", recipe(base, n_heads=99), weights=weights)
    bare = [Example("x", "Why?", (Passage("0", "Because."),))]
    with pytest.raises(ValueError, match="none of the 1 examples"):
        train_mini_fast(bare, tmp_path / "x.safetensors", recipe(base), weights=weights)
    with pytest.raises(ValueError, match="has no fast form"):
        load_compressor("lexical", fast=True)
    with pytest.raises(ValueError, match="leave model and weights out"):
        load_compressor("mini", weights=str(weights), fast=True)
