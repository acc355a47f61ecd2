import io
from pathlib import Path

import numpy as np
import pytest

from ctxcompress_integrations.index.vectors import VectorIndex


def unit(n, dimension=32, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(rows, first=1):
    vectors = VectorIndex.empty(rows.shape[1])
    vectors.apply([(first + n, row.tobytes()) for n, row in enumerate(rows)])
    return vectors


def best(rows, query, k, among=None):
    """Internal numbers by brute force; rows are numbered from 1."""
    cosines = rows.astype(np.float64) @ query
    numbers = np.arange(1, len(rows) + 1) if among is None else np.asarray(among)
    return numbers[np.argsort(-cosines[numbers - 1], kind="stable")][:k].tolist()


def internals(found):
    return [internal for internal, _ in found]


@pytest.fixture(scope="module")
def rows():
    return unit(3000)


@pytest.fixture(scope="module")
def ivf(rows):
    return filled(rows).fitted(1000)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_search_among_allowed_is_exact(rows, ivf, kind):
    vectors = filled(rows) if kind == "flat" else ivf
    allowed = np.arange(1, 3001, 37)
    for query, found in zip(queries := unit(5, seed=1), vectors.search(queries, 10, allowed), strict=True):
        assert internals(found) == best(rows, query, 10, allowed)
        assert found[0][1] == pytest.approx(float(rows[found[0][0] - 1] @ query), abs=1e-6)
    assert [len(found) for found in vectors.search(queries, 500, allowed)] == [len(allowed)] * 5
    assert vectors.search(queries, 3, np.empty(0, np.int64)) == [[]] * 5


def test_flat_search_is_exact(rows):
    queries = unit(30, seed=2)
    for query, found in zip(queries, filled(rows).search(queries, 10), strict=True):
        assert internals(found) == best(rows, query, 10)


def test_ivf_finds_ninety_five_of_a_hundred_neighbours_of_unseen_random_queries():
    rows, queries = unit(20_000), unit(200, seed=3)
    flat = filled(rows)
    ivf = flat.fitted(1000)
    pairs = zip(flat.search(queries, 10), ivf.search(queries, 10), strict=True)
    recall = sum(len(set(internals(a)) & set(internals(b))) for a, b in pairs) / 2000
    assert ivf.is_ivf
    assert recall >= 0.95


def test_ivf_gives_k_even_where_the_probed_lists_hold_fewer(rows, ivf):
    assert len(ivf.search(unit(1, seed=4), 3000)[0]) == 3000


def test_removed_numbers_are_gone_and_others_keep_their_vectors(rows):
    for vectors in (filled(rows), filled(rows).fitted(1000)):
        gone = list(range(1, 3001, 3))
        vectors.apply([(n, None) for n in gone])
        assert len(vectors) == 2000
        assert sorted(vectors.internals()) == sorted(set(range(1, 3001)) - set(gone))
        assert internals(vectors.search(rows[1:2], 1)[0]) == [2]
        assert internals(vectors.search(rows[:1], 1)[0]) != [1]
        assert (vectors.vectors([3000 - 1, 2]) == rows[[2998, 1]]).all()
        with pytest.raises(LookupError):
            vectors.vectors([1])


def test_replaying_adds_and_removals_of_the_same_number(rows):
    vectors = VectorIndex.empty(32)
    vectors.apply([(1, rows[0].tobytes()), (2, rows[1].tobytes()), (1, None), (99, None)])
    assert vectors.internals().tolist() == [2]
    with pytest.raises(ValueError, match="32 dimensions"):
        vectors.apply([(3, b"1234")])
    vectors.apply([])
    assert len(vectors) == 1


@pytest.mark.parametrize("kind", ["empty", "flat", "ivf"])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_written_and_read_again(rows, ivf, tmp_path, kind, is_mapped):
    vectors = {"empty": VectorIndex.empty(32), "flat": filled(rows), "ivf": ivf}[kind]
    path = tmp_path / "vectors"
    with path.open("wb") as file:
        vectors.write(file.write)
    with path.open("rb") as file:
        again = VectorIndex.map(str(path)) if is_mapped else VectorIndex.read(file.read)
    queries = unit(3, seed=5)
    assert again.search(queries, 7) == vectors.search(queries, 7)
    allowed = np.array([5, 9, 2000])
    if kind != "empty":
        assert again.search(queries, 7, allowed) == vectors.search(queries, 7, allowed)
        assert (again.vectors([7, 5]) == rows[[6, 4]]).all()
    assert (again.is_mapped, again.is_ivf, again.dimension) == (is_mapped, kind == "ivf", 32)
    assert sorted(again.internals()) == sorted(vectors.internals())


def test_mapping_leaves_the_vectors_in_the_file(rows, ivf, tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list its mappings")
    for name, vectors in (("flat.faiss", filled(rows)), ("ivf.faiss", ivf)):
        with (tmp_path / name).open("wb") as file:
            vectors.write(file.write)
        mapped = VectorIndex.map(str(tmp_path / name))
        assert name in maps.read_text()
        del mapped


@pytest.mark.parametrize("data", [b"", b"nonsense" * 100, b"IxM2"])
def test_what_is_no_index_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="."):
        VectorIndex.read(io.BytesIO(data).read)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="."):
        VectorIndex.map(str(tmp_path / "x"))


def test_an_error_of_the_file_comes_through(rows):
    def full(data):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        filled(rows).write(full)


def test_the_kind_follows_the_size(rows, ivf):
    flat = filled(rows)
    assert not flat.needs_fit(3001)
    assert flat.needs_fit(3000)
    assert not ivf.needs_fit(1000)
    assert not ivf.needs_fit(6000)
    assert ivf.needs_fit(6002)  # shrunk to less than half: exact again
    back = ivf.fitted(6002)
    assert not back.is_ivf
    assert internals(back.search(rows[:1], 1)[0]) == [1]
    grown = filled(rows).fitted(1000)
    more = unit(4000, seed=6)
    grown.apply([(10_000 + n, row.tobytes()) for n, row in enumerate(more)])
    assert grown.needs_fit(1000)
    refitted = grown.fitted(1000)
    assert len(refitted) == 7000
    assert not refitted.needs_fit(1000)
    assert internals(refitted.search(more[-1:], 1)[0]) == [13_999]
