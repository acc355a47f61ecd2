"""Our safetensors files are everybody's, and nothing else is taken for one."""

import hashlib

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ctxcompress_integrations.errors import IndexDamagedError
from ctxcompress_integrations.index.summaries import tensorfile


@pytest.fixture
def tensors():
    dice = np.random.default_rng(0)
    return {
        "bytes": dice.integers(0, 255, (3, 5)).astype(np.uint8),
        "vectors": dice.standard_normal((7, 3)).astype(np.float16),
        "start": np.arange(4, dtype=np.int64),
        "scale": dice.standard_normal(7).astype(np.float32),
        "crc32": np.array([2**32 - 1, 0, 5], np.uint32),
        "codes": dice.integers(-127, 127, (7, 3)).astype(np.int8),
    }


def test_the_safetensors_package_reads_what_we_write(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    written = tensorfile.write(path, tensors, {"format": "x"})
    assert (written.size, written.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    theirs, (ours, metadata) = load_file(path), tensorfile.read(path, size=written.size)
    assert metadata == {"format": "x"}
    assert theirs.keys() == ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        for read in (theirs[name], ours[name]):
            assert read.dtype == tensor.dtype
            assert np.array_equal(read, tensor)
        assert ours[name].flags.aligned
        assert not ours[name].flags.writeable
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "x"}


def test_we_read_what_the_safetensors_package_writes(tmp_path, tensors):
    save_file(tensors, tmp_path / "b.safetensors", metadata={"by": "them"})
    found, metadata = tensorfile.read(tmp_path / "b.safetensors")
    assert metadata == {"by": "them"}
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_mapped_file_may_go(tmp_path, tensors):
    tensorfile.write(tmp_path / "c.safetensors", tensors, {})
    found, _ = tensorfile.read(tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").unlink()
    assert np.array_equal(found["vectors"], tensors["vectors"])
    with pytest.raises(FileNotFoundError):
        tensorfile.read(tmp_path / "c.safetensors")


@pytest.mark.parametrize("how", ["empty", "seven", "half", "longer", "zeros", "text", "header"])
def test_what_is_no_such_file_is_named(tmp_path, tensors, how):
    path = tmp_path / "d.safetensors"
    tensorfile.write(path, tensors, {})
    data = path.read_bytes()
    data = {
        "empty": b"",
        "seven": data[:7],
        "half": data[: len(data) // 2],
        "longer": data + b"\0",
        "zeros": bytes(len(data)),
        "text": b"text" * 100,
        "header": data.replace(b'"shape": [7, 3]', b'"shape": [7, 9]'),
    }[how]
    path.write_bytes(data)
    with pytest.raises(IndexDamagedError, match=r"d\.safetensors"):
        tensorfile.read(path)
