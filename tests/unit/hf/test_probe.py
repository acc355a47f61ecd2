"""The probe's weights file: what was saved comes back, and nothing else is taken for it."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.probe import ProbeHead

METADATA = {"format": "ctxcompress-probe", "version": "1", "base": "lm", "layers": "2", "heads": "3", "template": ""}


def head(template=None):
    weight, mean, scale = np.random.default_rng(0).random((3, 6), dtype=np.float32)
    return ProbeHead(weight - 0.5, np.float32([0.25]), mean, scale + 0.1, "lm", 2, 3, template)


def tensors(**changes):
    made = head()
    found = {"weight": made.weight, "bias": made.bias, "mean": made.mean, "scale": made.scale}
    return {name: np.ascontiguousarray(t) for name, t in (found | changes).items() if t is not None}


@pytest.mark.parametrize("template", [None, "plain", "{passage} ? {query}"])
def test_saved_head_comes_back(tmp_path, template):
    path = tmp_path / "probe.safetensors"
    made = head(template)
    made.save(path)
    loaded = ProbeHead.load(path, base="lm")
    for name in ("weight", "bias", "mean", "scale"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made, name))
    assert (loaded.base, loaded.layers, loaded.heads, loaded.template) == ("lm", 2, 3, template)
    assert list(tmp_path.iterdir()) == [path]


def test_head_is_the_regression_written_out():
    made, features = head(), np.random.default_rng(1).random((5, 6), dtype=np.float32)
    slow = [
        sum((f - m) / s * w for f, m, s, w in zip(row, made.mean, made.scale, made.weight, strict=True))
        for row in features
    ]
    np.testing.assert_allclose(made(features), np.array(slow) + 0.25, rtol=1e-5)


def test_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "probe.safetensors"
    head().save(path)
    before = path.read_bytes()

    def interrupted(_tensors, aside, _metadata):
        aside.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("ctxcompress_integrations.hf.weights_file.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        head().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "ctxcompress-mini"}, "format 'ctxcompress-mini'"),
        ({"version": "2"}, "version '2'"),
        ({"base": "other/lm"}, "model='other/lm'"),
        ({"layers": "3"}, "3 layers of 3 heads"),
        ({"heads": "-3"}, "-3 heads"),
        ({"heads": "many"}, "many heads"),
        ({"layers": "9" * 5000}, "layers of 3"),
        ({"layers": "0"}, "0 layers"),
    ],
)
def test_file_for_something_else_is_refused(tmp_path, metadata, message):
    path = tmp_path / "probe.safetensors"
    save_file(tensors(), path, METADATA | metadata)
    with pytest.raises(WeightsMismatchError, match=message):
        ProbeHead.load(path, base="lm")


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": None},
        {"more": np.zeros(1, dtype=np.float32)},
        {"weight": np.zeros((2, 3), dtype=np.float32)},
        {"mean": np.zeros(5, dtype=np.float32)},
        {"weight": np.full(6, np.nan, dtype=np.float32)},
        {"scale": np.zeros(6, dtype=np.float32)},
        {"scale": np.full(6, -1, dtype=np.float32)},
        {"bias": np.array([np.inf], dtype=np.float32)},
    ],
)
def test_wrong_tensors_are_refused(tmp_path, changes):
    path = tmp_path / "probe.safetensors"
    save_file(tensors(**changes), path, METADATA)
    with pytest.raises(WeightsMismatchError, match="train it again"):
        ProbeHead.load(path, base="lm")


@pytest.mark.parametrize("content", [None, b"", b"no safetensors", pickle.dumps({"weight": [1.0]})])
def test_what_is_no_weights_file_is_refused_and_never_unpickled(tmp_path, content):
    path = tmp_path / "probe.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsMismatchError, match="no readable safetensors"):
        ProbeHead.load(path, base="lm")
    with pytest.raises(WeightsMismatchError, match="no readable safetensors"):
        ProbeHead.load(tmp_path, base="lm")


def test_file_without_metadata_is_refused(tmp_path):
    path = tmp_path / "probe.safetensors"
    save_file(tensors(), path)
    with pytest.raises(WeightsMismatchError, match="format None"):
        ProbeHead.load(path, base="lm")
