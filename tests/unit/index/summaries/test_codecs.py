"""Each codec against a twin that works bit by bit and number by number."""

import math

import numpy as np
import pytest

from ctxcompress_integrations.index.summaries import codecs
from ctxcompress_integrations.index.summaries.codecs import Half, Int8, ProductQuantiser

WIDTH = 16


@pytest.fixture
def vectors():
    """Lengths over nine decades, with an outlier dimension and a zero vector."""
    dice = np.random.default_rng(3)
    rows = dice.standard_normal((40, WIDTH)) * 10 ** dice.uniform(-6, 3, (40, 1))
    rows[:, 3] *= 20
    rows[7] = 0
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def centroids():
    return codecs.train(np.random.default_rng(5).standard_normal((9000, WIDTH)).astype(np.float16))


def slow_int8(vector):
    largest = max(abs(float(x)) for x in vector)
    scale = float(np.float32(largest / 127))
    return [max(-127, min(127, round(float(x) / scale))) if scale else 0 for x in vector], scale


def slow_bits(code, n_bits, n_groups):
    """Numbers of ``n_bits`` bits, lowest bit first, from a string of bytes."""
    bits = [byte >> i & 1 for byte in code.tolist() for i in range(8)]
    return [sum(bits[g * n_bits + i] << i for i in range(n_bits)) for g in range(n_groups)]


def test_int8_is_its_slow_twin(vectors):
    columns = Int8(WIDTH).encode(vectors)
    decoded = Int8(WIDTH).decode(columns)
    assert decoded.dtype == np.float32
    for i, vector in enumerate(vectors):
        codes, scale = slow_int8(vector)
        assert columns["scale"][i] == np.float32(scale)
        assert np.abs(columns["codes"][i] - np.array(codes)).max() <= 1  # fp32 may round a tie to the other side
        assert (columns["codes"][i] != codes).sum() <= 1
        assert decoded[i].tolist() == [float(np.float32(scale) * np.float32(c)) for c in columns["codes"][i].tolist()]
        assert np.abs(decoded[i] - vector).max() <= 0.501 * scale


def test_int8_takes_what_fp16_does_not():
    vectors = np.array([[1e38, -3e37], [1e-42, 5e-43], [-0.0, 0.0]], np.float32)
    codec = Int8(2)
    assert codec.refusal(vectors) is None
    decoded = codec.decode(codec.encode(vectors))
    assert decoded[0] == pytest.approx(vectors[0], rel=0.01)
    assert np.isfinite(decoded).all()
    assert not decoded[2].any()


def test_fp16_is_a_view_and_names_what_it_cannot_hold():
    codec = Half(2)
    columns = {"vectors": np.ones((3, 2), np.float16)}
    assert np.shares_memory(codec.decode(columns), columns["vectors"])
    assert codec.refusal(np.array([[65504, -65504]], np.float32)) is None
    assert "70000" in codec.refusal(np.array([[1, -70000]], np.float32))
    for value in (math.nan, math.inf, -math.inf):
        for other in (codec, Int8(2)):
            assert other.refusal(np.array([[1, value]], np.float32)) is not None


def test_pq_is_its_slow_twin(vectors, centroids):
    codec = ProductQuantiser(centroids)
    n_groups = WIDTH // codecs.N_DIMS
    columns = codec.encode(vectors)
    decoded = codec.decode(columns)
    for i, vector in enumerate(vectors):
        length = math.sqrt(sum(float(x) ** 2 for x in vector))
        assert columns["length"][i] == pytest.approx(length, rel=1e-6)
        numbers = slow_bits(columns["codes"][i], codecs.N_BITS, n_groups)
        expected = [float(x) * length for g, number in enumerate(numbers) for x in centroids[g, number]]
        assert decoded[i] == pytest.approx(expected, rel=1e-5, abs=1e-30)
        for g, number in enumerate(numbers if length else []):
            part = vector[4 * g : 4 * g + 4] / length
            away = [sum((float(a) - float(b)) ** 2 for a, b in zip(part, c, strict=True)) for c in centroids[g]]
            assert away[number] == pytest.approx(min(away), rel=1e-4, abs=1e-9)
    assert not decoded[7].any()


def test_pq_is_trained_alike_every_time_and_on_any_lengths(centroids):
    vectors = np.random.default_rng(5).standard_normal((9000, WIDTH)).astype(np.float16)
    assert np.array_equal(codecs.train(vectors), centroids)
    assert codecs.train(vectors.astype(np.float32) * 1000) == pytest.approx(centroids, abs=1e-3)


def test_sizes():
    def size(codec):
        return sum(np.dtype(dtype).itemsize * (width or 1) for dtype, width in codec.columns.values())

    half = size(Half(4096))
    assert size(Int8(4096)) == half / 2 + 4
    for width in (128, 4096):
        codec = ProductQuantiser(np.zeros((width // 4, 128, 4), np.float32))
        assert size(codec) <= size(Half(width)) / 8


def test_pq_names_a_width_and_a_codebook_that_do_not_fit(centroids):
    with pytest.raises(ValueError, match="6"):
        codecs.check_width("pq", 6)
    codecs.check_width("int8", 6)
    with pytest.raises(ValueError, match="codebook"):
        ProductQuantiser(centroids[:, :64])
    assert "length" in ProductQuantiser(centroids).refusal(np.full((1, WIDTH), 3e38, np.float32))


@pytest.mark.parametrize("with_zero", [False, True])  # float32, float64
def test_relative_error_is_measured_per_vector(vectors, centroids, with_zero):
    vectors = vectors if with_zero else np.delete(vectors, 7, axis=0)
    for codec, bound in ((Half(WIDTH), 0.02), (Int8(WIDTH), 0.02), (ProductQuantiser(centroids), 1.0)):
        decoded = codec.decode(codec.encode(vectors))
        error = codecs.relative_error(vectors, decoded)
        for i, vector in enumerate(vectors):
            length = math.sqrt(sum(float(x) ** 2 for x in vector))
            off = math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(vector, decoded[i], strict=True)))
            assert error[i] == pytest.approx(off / length if length else 0.0, rel=1e-5, abs=1e-12)
        assert error.max() < bound
    assert codecs.relative_error(np.zeros((1, 2)), np.ones((1, 2)))[0] == math.inf
    large = np.array([[3e30, 4e30]], np.float32)
    assert codecs.relative_error(large, large * np.float32(1.01))[0] == pytest.approx(0.01, rel=1e-4)
