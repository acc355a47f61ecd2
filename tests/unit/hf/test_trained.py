"""Weights files of mini: what is written is what is read, and what does not match is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf import mini_weights
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import load_small_world, load_trained, shipped
from ctxcompress_integrations.scorers.mini import SHIPPED


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        max_position_embeddings=32,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        num_hidden_layers=3,
    )
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def saved(base, tmp_path):
    model = mini_weights.untrained(base, layers=(0, 2), n_dims=16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    frozen = mini_weights.untrained(base, layers=(0, 2), n_dims=16).encoder.state_dict()
    for name, value in model.encoder.state_dict().items():
        if name.startswith(("words", "positions", "norm", "layers.0.")):
            value.copy_(frozen[name])
    path = tmp_path / "mini.safetensors"
    mini_weights.save(
        model,
        path,
        base="tiny",
        base_sha256=weights_digest(base),
        layers=(0, 2),
        n_frozen=1,
        card={"thresholds": {"0.01": 0.5}},
    )
    return model, path


def test_what_is_written_is_what_is_read(base, saved):
    model, path = saved
    read, card = mini_weights.load(path, base, name="tiny", base_sha256=weights_digest(base))
    assert card == {"thresholds": {"0.01": 0.5}}
    for (name, ours), theirs in zip(model.state_dict().items(), read.state_dict().values(), strict=True):
        expected = ours.to(torch.bfloat16).float() if name.startswith("encoder.layers.1.") else ours
        assert torch.equal(theirs, expected), name
    assert not list(path.parent.glob("*.part"))
    assert not any(name.startswith(("encoder.words", "encoder.layers.0.")) for name in load_file(path))


def rewritten(path, change_metadata=None, change_tensors=None):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    metadata |= change_metadata or {}
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has format 'other'"),
        ({"version": "9"}, "version '9'"),
        ({"base": "another"}, "was trained on 'another', not 'tiny'"),
        ({"base_sha256": "0" * 64}, "other weights of 'tiny'"),
        ({"sha256": "0" * 64}, "is damaged"),
    ],
)
def test_other_weights_are_refused_by_name(base, saved, change, message):
    rewritten(saved[1], change)
    with pytest.raises(WeightsMismatchError, match=message) as caught:
        mini_weights.load(saved[1], base, name="tiny", base_sha256=weights_digest(base))
    assert "mini.safetensors" in str(caught.value)


def test_a_changed_tensor_is_noticed(base, saved):
    rewritten(saved[1], change_tensors=lambda tensors: tensors["query.weight"].add_(1e-3))
    with pytest.raises(WeightsMismatchError, match="is damaged"):
        mini_weights.load(saved[1], base, name="tiny", base_sha256=weights_digest(base))


@pytest.mark.parametrize("content", [b"", b"garbage", json.dumps({"a": 1}).encode()])
def test_a_file_that_is_no_safetensors_is_refused(base, tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsMismatchError, match="no readable safetensors file"):
        mini_weights.load(path, base, name="tiny", base_sha256="")
    with pytest.raises(WeightsMismatchError):
        mini_weights.load(tmp_path / "missing.safetensors", base, name="tiny", base_sha256="")


@pytest.mark.parametrize("load", [lambda: load_trained(SHIPPED), lambda: load_small_world(shipped("reader"))])
def test_loading_what_ships_draws_no_random_numbers(load):
    before = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), before)
