"""All four stages on a tiny base: they learn, hold their budgets, resume bit for bit, and say what they cannot use."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from typer.testing import CliRunner

from ctxcompress_integrations.cli import app
from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.evaluation import bench_infor_coef
from ctxcompress_integrations.evaluation.classification import Labelled, batch_of, load_labelled, measure
from ctxcompress_integrations.evaluation.jsonl import DatasetError
from ctxcompress_integrations.hf import coef_weights
from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder
from ctxcompress_integrations.nn.encoder_gates import size_of
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.training.infor_coef import Recipe, Run, train_infor_coef

QUICK = {"eval_every": 4, "dense_steps": 4, "static_steps": 4, "folded_steps": 2, "dynamic_steps": 4, "batch_size": 8}
CALM = {"dropout": 0.0, "lr": 3e-3, "late_lr": 1e-3, "head_factor": 3.0, "sampled": (1,), "n_sampler": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model, tokenizer = tiny_encoder()
    tokenizer.sep_token = "</s>"
    pair = "<s> $A </s> $B </s>"
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rows(n, seed=0):
    """The label is whether token 7 or token 8 stands somewhere among others that mean nothing."""
    chance = random.Random(seed)
    made = []
    for _ in range(n):
        label = chance.randrange(2)
        text = [chance.randrange(20, 90) for _ in range(chance.randrange(4, 14))]
        text[chance.randrange(len(text))] = 7 + label
        made.append(Labelled([1, *text, 2], [False] * (len(text) + 2), label))
    return made


def recipe(base, **changes):
    return Recipe(base=base, **{**QUICK, **CALM, **changes})


def test_the_stages_learn_and_hold_their_budgets(base, tmp_path):
    plan = recipe(
        base,
        dense_steps=150,
        static_steps=120,
        folded_steps=60,
        dynamic_steps=150,
        eval_every=60,
        batch_size=16,
        size=0.5,
        tokens=0.6,
        start=1.0,
    )
    out, dev = tmp_path / "made.safetensors", rows(100, 1)
    model = train_infor_coef(Run(rows(400), dev, out, plan, device="cpu"))
    stages = {name: coef_weights.load(tmp_path / f"made.{name}.safetensors") for name in ("dense", "folded", "dynamic")}
    found = {name: measure(stage[0], dev) for name, stage in stages.items()}
    assert found["dense"].accuracy > 0.9
    assert found["folded"].accuracy > 0.85
    assert found["dynamic"].accuracy > 0.85
    dense, small = stages["dense"][0].packed, stages["folded"][0].packed
    assert 0.35 < size_of(small) / size_of(dense) <= 0.5
    assert found["folded"].flops < 0.6 * found["dense"].flops
    assert found["dynamic"].kept < 0.95
    assert found["dynamic"].flops < found["folded"].flops
    curves = json.loads((tmp_path / "made.curves.json").read_text())["stages"]
    assert list(curves) == ["dense", "static", "folded", "dynamic"]
    assert [step for step, _ in curves["static"]["dev"]] == [60, 120]
    again, name, card = coef_weights.load(out)
    assert (name, card["stage"], card["dev"]["accuracy"]) == (base, "dynamic", found["dynamic"].accuracy)
    batch = batch_of(dev[:9])
    with torch.no_grad():
        ours, theirs = (m(batch.ids, batch.blocks, batch.protected)[0] for m in (model, again))
    assert torch.equal(ours, theirs)


def stop_at(stage, step):
    def report(name, progress, _):
        if (name, progress.step) == (stage, step):
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("stage", ["dense", "static", "folded", "dynamic"])
def test_an_interrupted_run_goes_on_bit_for_bit(base, tmp_path, stage):
    plan = recipe(base, eval_every=2)
    data, dev = rows(20), rows(10, 1)
    train_infor_coef(Run(data, dev, tmp_path / "whole.safetensors", plan, device="cpu"))
    parts = tmp_path / "parts.safetensors"
    last = getattr(plan, f"{stage}_steps") - 1
    with pytest.raises(KeyboardInterrupt):
        train_infor_coef(Run(data, dev, parts, plan, device="cpu", report=stop_at(stage, last)))
    assert not parts.exists()
    train_infor_coef(Run(data, dev, parts, plan, device="cpu"))
    one, other = load_file(tmp_path / "whole.safetensors"), load_file(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_halves_of_the_method_alone_and_a_dense_model_given(base, tmp_path):
    data, dev = rows(20), rows(10, 1)
    first = tmp_path / "a.safetensors"
    static = train_infor_coef(Run(data, dev, first, recipe(base, tokens=1.0), device="cpu"))
    assert not isinstance(static.encoder, DroppingEncoder)
    dense = coef_weights.load(tmp_path / "a.dense.safetensors")[0]
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    out = tmp_path / "b.safetensors"
    dynamic = train_infor_coef(Run(data, dev, out, recipe(base, size=1.0), device="cpu"), dense=dense)
    assert size_of(dynamic.packed) == size_of(dense.packed)
    assert list(dynamic.encoder.samplers) == ["1"]
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())  # it was only looked at
    assert not (tmp_path / "b.dense.safetensors").exists()
    with pytest.raises(ValueError, match=r"belongs to another recipe \(seed: 0 there, 1 here\)"):
        train_infor_coef(Run(data, dev, first, recipe(base, tokens=1.0, seed=1), device="cpu"))
    with pytest.raises(ValueError, match=r"a.dense.safetensors belongs to another recipe \(rows: .*delete it"):
        train_infor_coef(Run(data[:10], dev, first, recipe(base, tokens=1.0), device="cpu"))
    with pytest.raises(ValueError, match=r"b.dynamic.safetensors belongs to another recipe \(dense: "):
        train_infor_coef(Run(data, dev, out, recipe(base, size=1.0), device="cpu"), dense=static)


def test_what_cannot_be_trained_is_said(base, tmp_path):
    with pytest.raises(ValueError, match=r"size must be in \(0, 1\], got 0"):
        recipe(base, size=0)
    with pytest.raises(ValueError, match=r"tokens must be in \(0, 1\], got 1.5"):
        recipe(base, tokens=1.5)
    with pytest.raises(ValueError, match="needs rows and dev rows, got 0 and 3"):
        Run([], rows(3), tmp_path / "x", recipe(base))


def test_damaged_and_foreign_weights_are_named(base, tmp_path):
    out = tmp_path / "a.safetensors"
    train_infor_coef(Run(rows(20), rows(10), out, recipe(base, tokens=1.0, size=1.0), device="cpu"))
    data = bytearray(out.read_bytes())
    data[-5] ^= 1
    out.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match="is damaged"):
        coef_weights.load(out)
    out.write_bytes(b"nothing")
    with pytest.raises(WeightsMismatchError, match="no readable safetensors"):
        coef_weights.load(out)


def write(folder, name, objects):
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(o) for o in objects))


def pairs(n, seed=0):
    chance = random.Random(seed)
    for _ in range(n):
        label = chance.randrange(2)
        yield {
            "question": "Which animal?",
            "sentence": ["The lazy dog.", "The tower in France."][label],
            "label": label,
        }


def test_rows_of_pairs_know_their_query(base, tmp_path):
    from ctxcompress_integrations.hf.load import load_tokenizer

    tokenizer = load_tokenizer(base)
    write(tmp_path, "t_dev", [*pairs(1), {"sentence": "The dog.", "label": 1}])
    pair, single = load_labelled(tmp_path, "t_dev", tokenizer)
    n_query = len(tokenizer("Which animal?")["input_ids"])
    assert pair.is_query == [i < n_query for i in range(len(pair.ids))]
    assert pair.ids[n_query - 1] == tokenizer.sep_token_id
    assert (any(single.is_query), single.label) == (False, 1)
    for bad in (
        {"sentence": "x", "label": "1"},
        {"label": 1},
        {"sentence": 3, "label": 1},
        {"sentence": "x", "label": -1},
    ):
        write(tmp_path, "bad_dev", [bad])
        with pytest.raises(DatasetError, match=r"bad_dev.jsonl:1 needs a text 'sentence' and a whole 'label'"):
            load_labelled(tmp_path, "bad_dev", tokenizer)


def test_command_and_bench(base, tmp_path, monkeypatch):
    write(tmp_path, "qnli_like_train", pairs(20))
    write(tmp_path, "qnli_like_dev", pairs(12, 1))
    out = tmp_path / "qnli_like.safetensors"
    arguments = ["--data", str(tmp_path), "--base", base, "--steps", "2,2,2,2", "--batch", "4", "--sampled", "1"]
    done = CliRunner().invoke(app, ["train", "infor-coef", "--task", "qnli_like", "--out", str(out), *arguments])
    assert done.exit_code == 0, done.output
    assert "qnli_like: 20 rows, 12 dev rows" in done.output
    assert "fewer FLOPs than BERT-base" in done.output
    for wrong in (["--steps", "2,2"], ["--steps", "a,b"]):
        again = ["train", "infor-coef", "--task", "qnli_like", "--out", str(out), *arguments, *wrong]
        assert CliRunner().invoke(app, again).exit_code == 2
    monkeypatch.setattr(bench_infor_coef, "REPEATS", 1)
    found = []
    bench_infor_coef.bench_infor_coef(found.append, data=tmp_path, weights=tmp_path, device="cpu")
    rows_of = {row.measure: row for row in found}
    assert rows_of["qnli_like: FLOPs by the formula, off from torch's counter"].ok
    assert rows_of["qnli_like: fewer FLOPs than BERT-base"].target == ">= 18"
    assert rows_of["qnli_like: time gained over FLOPs gained, batch 1"].value > 0
    assert "no wellformed.safetensors" in rows_of["wellformed: accuracy lost to the dense model"].why
    kinds = {row.labels["kind"] for row in found if row.labels}
    assert kinds == {"dense", "static only", "both"}
    found.clear()
    bench_infor_coef.bench_infor_coef(found.append, data=None, weights=None, device="cpu")
    assert {row.why for row in found} == {"give --data and --weights"}
