"""The benchmark commands on tiny inputs: every row is there, honest about what was not measured."""

import json
import subprocess
import sys

import pytest
import torch

from ctxcompress_integrations.evaluation import (
    bench_icformer,
    bench_lm_infinite,
    bench_mini,
    bench_quito,
    bench_summaries,
)
from ctxcompress_integrations.evaluation.random_models import random_decoder, shared_llama
from ctxcompress_integrations.evaluation.rows import Row, as_report, write_report


@pytest.mark.parametrize(
    ("value", "target", "ok"),
    [
        (2.6, ">= 2.5", True),
        (2.4, ">= 2.5", False),
        (0, "<= 0", True),
        (400, "< 400", False),
        (None, "< 1", None),
        (1, None, None),
    ],
)
def test_ok_is_the_comparison(value, target, ok):
    assert Row("m", value, "x", target).ok is ok


def test_report_describes_the_machine(tmp_path):
    path = tmp_path / "deep" / "r.json"
    rows = [Row("m", 1.0, "s", "<= 2", 3, (0.5, 1.5)), Row("n", None, "s", why="no data")]
    write_report(path, as_report("ctxcompress bench x", rows))
    report = json.loads(path.read_text())
    assert set(report) == {"command", "machine", "rows"}
    assert set(report["machine"]) == {"cpu", "cores", "memory", "gpu", "versions"}
    assert report["rows"][0]["ok"] is True
    second = report["rows"][1]
    assert (second["value"], second["ok"], second["why"]) == (None, None, "no data")


def test_quito_rows_and_its_two_forms_agree(monkeypatch):
    tiny = {
        "vocab_size": 500,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    monkeypatch.setattr(bench_quito, "SHAPE", tiny | {"num_key_value_heads": 2})
    monkeypatch.setattr(bench_quito, "CPU_LENGTHS", (32, 64))
    monkeypatch.setattr(bench_quito, "TARGET_LENGTH", 64)
    rows = []
    bench_quito.bench_quito(rows.append, device="cpu")
    found = {row.measure: row for row in rows}
    assert found["quito float32 n=64: largest difference of a score"].value < 1e-4
    assert found["textbook float32 / quito float32 n=64: time"].target == ">= 2.5"
    assert found["textbook float32 / quito bfloat16 n=64: time"].value > 0
    assert "quito float32: memory growth exponent over n" in found


def test_textbook_that_would_not_fit_says_so(monkeypatch):
    assert bench_quito._too_large(8, torch.device("cpu")) is None
    monkeypatch.setattr(bench_quito, "free_memory", lambda device: 1.0)
    assert "GiB" in bench_quito._too_large(8, torch.device("cpu"))


def test_lm_infinite_rows(monkeypatch):
    monkeypatch.setattr(bench_lm_infinite, "SMALL", bench_lm_infinite.SMALL | {"hidden_size": 32, "head_dim": 8})
    monkeypatch.setattr(bench_lm_infinite, "CPU_LENGTHS", (128, 256))
    monkeypatch.setattr(bench_lm_infinite, "CPU_WINDOW", 64)
    monkeypatch.setattr(bench_lm_infinite, "CHUNK", 64)
    rows = []
    bench_lm_infinite.bench_lm_infinite(rows.append, device="cpu")
    targets = {row.measure: row.target for row in rows if row.target}
    assert targets == {
        "lm-infinite: time in chunks of 64 growth exponent over n": "<= 1.1",
        "full SDPA / lm-infinite n=256: time of encoding": ">= 3.16",
        "full SDPA / lm-infinite n=256: time per decoded token": ">= 2.72",
        "lm-infinite: memory in one forward growth exponent over n": "<= 1.1",
        "lm-infinite / full SDPA n=256: peak extra memory, both in chunks": "<= 0.2",
        "lm-infinite / full SDPA n=256: peak extra memory, ours in chunks, full in one forward": "<= 0.2",
    }
    assert all(row.value is not None and row.value > 0 for row in rows if "exponent" not in row.measure)
    monkeypatch.setattr(bench_lm_infinite, "free_memory", lambda device: 1.0)
    rows.clear()
    bench_lm_infinite.bench_lm_infinite(rows.append, device="cpu")
    unmeasured = [row for row in rows if row.value is None]
    assert len(unmeasured) == 3
    assert all("GiB" in row.why and row.ok is None for row in unmeasured)


TINY_LLAMA = {
    "vocab_size": 30003,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def test_layers_share_weights_and_nothing_else():
    model = shared_llama({**TINY_LLAMA, "num_hidden_layers": 3}, torch.device("cpu"))
    plain = random_decoder("llama", {**TINY_LLAMA, "num_hidden_layers": 3}, seed=1).to(torch.bfloat16)
    for layer in plain.model.layers:
        layer.load_state_dict(model.model.layers[0].state_dict())
    for name in ("embed_tokens", "norm"):
        getattr(plain.model, name).load_state_dict(getattr(model.model, name).state_dict())
    plain.lm_head.load_state_dict(model.lm_head.state_dict())
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        ours, theirs = model(ids, use_cache=True), plain(ids, use_cache=True)
    assert torch.equal(ours.logits, theirs.logits)
    assert [layer.keys.shape for layer in ours.past_key_values.layers] == [(1, 2, 16, 16)] * 3
    storages = {parameter.data_ptr() for layer in model.model.layers for parameter in layer.parameters()}
    assert len(storages) == len(list(model.model.layers[0].parameters()))


def test_icformer_rows(monkeypatch):
    monkeypatch.setattr(bench_icformer, "LLAMA_7B", TINY_LLAMA)
    monkeypatch.setattr(bench_icformer, "N_HEADS", 4)
    monkeypatch.setattr(bench_icformer, "N_INNER", 128)
    monkeypatch.setattr(bench_icformer, "N_TOKENS", 32)
    monkeypatch.setattr(bench_icformer, "N_VECTORS", 8)
    monkeypatch.setattr(bench_icformer, "LENGTHS", (32, 64, 128))
    rows = []
    bench_icformer.bench_icformer(rows.append, device="cpu")
    found = {row.measure: row for row in rows}
    assert 0.8 < found["IC-Former: growth exponent of FLOPs over n"].value <= 1.0  # the first queries are shared
    assert [row.target for row in rows if row.target] == ["<= 0.05", ">= 10", "<= 1.1", "<= 1.1"]
    assert found[bench_icformer.ON_GPU].why == "no GPU here"


def test_summaries_rows(monkeypatch):
    monkeypatch.setattr(bench_summaries, "LLAMA_1B", TINY_LLAMA)
    monkeypatch.setattr(bench_summaries, "SMALL", TINY_LLAMA)
    monkeypatch.setattr(bench_summaries, "SEGMENT", 64)
    monkeypatch.setattr(bench_summaries, "N_VECTORS", 4)
    monkeypatch.setattr(bench_summaries, "CPU_CONTEXTS", (128, 256))
    monkeypatch.setattr(bench_summaries, "N_BUILT", 4)
    monkeypatch.setattr(bench_summaries, "CODEC_ROWS", 12)
    monkeypatch.setattr(bench_summaries, "CODEC_BOUNDS", {"fp16": "<= 1", "int8": "<= 0.505"})
    rows = []
    bench_summaries.bench_summaries(rows.append, device="cpu")
    found = {row.measure: row for row in rows}
    assert found["a rerun over a finished corpus: forwards"].ok
    assert found["int8, [4, 4096]: size against fp16"].ok
    assert 1e-3 < found["int8, [4, 4096]: relative error"].value < 2e-2
    name = "Llama-3.2-1B's shape, bf16, cpu, context 256, 16 new tokens"
    assert found[f"{name}: 16 vectors, to the last token"].value > 0
    assert {row.target for row in rows if row.target} == {"<= 1", "<= 0.505", ">= 0.85", "<= 0", ">= 7.62", "<= 0.02"}


def test_mini_without_data_says_so_and_with_data_measures(tmp_path, xquad, monkeypatch):
    monkeypatch.setattr(bench_mini, "N_CALLS", 1)
    rows = []
    bench_mini.bench_mini(rows.append, data=None, device="cpu")
    uncached, cached, fast, *ratios = rows[:10]
    others = rows[10:]
    assert uncached.value > cached.value > 0
    assert uncached.value > fast.value > 0
    assert (uncached.target, cached.target) == ("<= 150", "<= 25")
    assert all(row.value > 0 for row in ratios)
    assert [row.target for row in ratios if row.target] == [">= 2"]
    assert all(row.value is None and "--data" in row.why for row in others)
    lines = [json.dumps(row) for row in xquad if row["lang"] == "en"][:20]
    (tmp_path / "xquad_12lang.jsonl").write_text("\n".join(lines))
    rows.clear()
    bench_mini.bench_mini(rows.append, data=tmp_path, device="cpu")
    found = {row.measure: row for row in rows}
    assert found["xquad en, sentence unit, keep_ratio 0.25: answer kept"].value > 0.5
    assert found["token budgets exceeded"].value == 0
    assert found["token budgets exceeded"].n == 40


def test_command_writes_json_and_exits_by_the_targets(tmp_path, monkeypatch):
    monkeypatch.delenv("CTXCOMPRESS_DATA", raising=False)
    code = "from ctxcompress_integrations.cli import main; main()"
    arguments = ["bench", "mini", "--json", str(tmp_path / "m.json"), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    written = json.loads((tmp_path / "m.json").read_text())
    assert done.returncode == int(any(row["ok"] is False for row in written["rows"])), done.stderr
    assert "not measured" in done.stdout
    assert written["command"].startswith("ctxcompress bench mini")
