"""The file that trained summarizers live in: what does not belong is named, and a save is whole or absent."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf import summary_weights, weights_file

BASES = {"reader": "a" * 64, "tokenizer": "b" * 64}


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    summary_weights.save(
        path, torch.nn.Linear(3, 2), method="icae", config={"module": {"n": 1}}, bases=BASES, card={"steps": 7}
    )
    return path


def rewritten(path, *, tensors=None, **metadata):
    with safe_open(path, framework="pt") as file:
        held, was = {key: file.get_tensor(key) for key in ("weight", "bias")}, file.metadata()
    save_file(held | (tensors or {}), path, metadata={**was, **metadata})
    return path


def test_round_trip(path):
    held = summary_weights.read(path, method="icae")
    assert (held.config, held.bases, held.card) == ({"module": {"n": 1}}, BASES, {"steps": 7})
    module = torch.nn.Linear(3, 2)
    summary_weights.fill(module, held.tensors, source="it")
    assert torch.equal(module.weight, held.tensors["weight"])
    held.check_bases(BASES)
    assert summary_weights.is_ours(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.safetensors"]


def test_a_save_that_fails_leaves_what_was_there(path, monkeypatch):
    before = path.read_bytes()

    def full(tensors, aside, metadata):
        aside.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(weights_file, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        summary_weights.save(path, torch.nn.Linear(2, 2), method="icae", config={}, bases={}, card={})
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has format 'other' version '1'"),
        ({"version": "2"}, "version '2'; this release reads"),
        ({"method": "pooled"}, "summarizer 'pooled', not 'icae'"),
        ({"sha256": "0" * 64}, "is damaged: its tensors do not match their hash"),
        ({"tensors": {"weight": torch.zeros(2, 3)}}, "is damaged: its tensors do not match their hash"),
        ({"config": "{"}, "is damaged: its metadata does not say"),
    ],
)
def test_another_file_is_refused(path, change, message):
    with pytest.raises(WeightsMismatchError, match=message):
        summary_weights.read(rewritten(path, **change), method="icae")


def test_no_file_and_half_a_file(path, tmp_path):
    with pytest.raises(WeightsMismatchError, match="no readable safetensors file"):
        summary_weights.read(tmp_path / "none", method="icae")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WeightsMismatchError, match="no readable safetensors file"):
        summary_weights.read(path, method="icae")
    assert not summary_weights.is_ours(path)
    assert not summary_weights.is_ours(tmp_path)


def test_other_bases_and_shapes_are_named(path):
    held = summary_weights.read(path, method="icae")
    with pytest.raises(WeightsMismatchError, match="trained for another tokenizer"):
        held.check_bases(BASES | {"tokenizer": "c" * 64})
    for module, message in [
        (torch.nn.Linear(3, 2, bias=False), "does not belong there: 'bias'"),
        (torch.nn.Linear(4, 2), r"'weight' of it has shape \(2, 3\), \(2, 4\) is needed"),
        (torch.nn.BatchNorm1d(2), "lacks the tensor 'num_batches_tracked'"),
    ]:
        with pytest.raises(WeightsMismatchError, match=message):
            summary_weights.fill(module, held.tensors | ({"bias": torch.zeros(2)}), source="it")
