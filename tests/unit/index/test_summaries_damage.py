"""A damaged file of the summaries is named, is never read as something else, and can be mended."""

import json
import shutil
import sqlite3

import numpy as np
import pytest

from ctxcompress_integrations.errors import IndexDamagedError, SummaryMissingError
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.manifest import _checksum
from ctxcompress_integrations.index.summaries import codecs
from ctxcompress_integrations.records import Passage


@pytest.fixture(params=["fp16", "int8", "pq"])
def codec(request, monkeypatch):
    monkeypatch.setattr(codecs, "TRAIN_FROM", 150)
    return request.param


@pytest.fixture
def summarizer(make_summarizer):
    return make_summarizer(m=50)  # shards of one size


@pytest.fixture
def closed(index, path, summarizer, codec):
    """Four shards of three rows each."""
    index.add([Passage(str(n), f"text {n:02}") for n in range(12)])
    index.build_summaries(summarizer, batch_size=3, codec=codec)
    index.close()
    return path


def shards_of(path):
    return [
        file for file in sorted((path / "summaries").glob("*.safetensors")) if b'"codebook"' not in file.read_bytes()
    ]


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file, at=-1):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


def swap(first, second):
    data = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "longer", "flipped", "swapped", "foreign"])
def test_a_damaged_shard_is_named_and_can_be_mended(closed, tmp_path, embedder, summarizer, codec, how):
    _, second, third, _ = shards_of(closed)
    assert second.stat().st_size == third.stat().st_size
    damaged = [second]
    if how == "missing":
        second.unlink()
    elif how == "empty":
        second.write_bytes(b"")
    elif how == "cut":
        cut(second)
    elif how == "longer":
        second.write_bytes(second.read_bytes() + b"\0")
    elif how == "flipped":
        flip(second)
    elif how == "swapped":
        swap(second, third)
        damaged.append(third)
    else:
        with CompressedIndex.create(tmp_path / "other", embedder=embedder) as other:
            other.add([Passage(str(n), f"text {n:02}") for n in range(12)])
            other.build_summaries(summarizer, batch_size=3, codec=codec)
        shutil.copy(tmp_path / "other" / "summaries" / second.name, second)
    summarizer.computed.clear()
    with CompressedIndex.open(closed, embedder=embedder) as index:
        problems = index.verify()
        assert len(problems) == len(damaged)
        for file, problem in zip(damaged, problems, strict=True):
            assert str(file) in problem
            assert "repair=True" in problem
        index.search("q")  # the passages are as they were
        with pytest.raises(IndexDamagedError, match=rf"{second.name}.*repair=True"):
            index.summaries(index.ids(), summarizer.fingerprint)
        assert index.build_summaries(summarizer, repair=True) == 3 * len(damaged)
        assert index.verify() == []
        found = index.summaries(index.ids(), summarizer.fingerprint)
        for passage, summary in zip(index.get(index.ids()), found, strict=True):
            exact = summarizer.vectors(passage.text)
            assert np.linalg.norm(summary.vectors - exact) < (0.01 if codec != "pq" else 1.0) * np.linalg.norm(exact)


def test_no_changed_byte_is_read_as_something_else(closed, embedder, summarizer):
    file = shards_of(closed)[1]
    whole, n_refused = file.read_bytes(), 0
    with CompressedIndex.open(closed, embedder=embedder, read_only=True) as index:
        ids = index.ids()
        truth = [summary.vectors.copy() for summary in index.summaries(ids, summarizer.fingerprint)]
    places = range(0, len(whole), max(1, len(whole) // 60))
    for at in places:
        flip(file, at)
        with CompressedIndex.open(closed, embedder=embedder, read_only=True) as index:
            (problem,) = index.verify()
            assert file.name in problem
            try:
                found = index.summaries(ids, summarizer.fingerprint)
                assert all(np.array_equal(s.vectors, t) for s, t in zip(found, truth, strict=True))
                assert [s.n_tokens for s in found] == [7] * 12
            except IndexDamagedError as error:
                assert file.name in str(error)
                n_refused += 1
        file.write_bytes(whole)
    assert n_refused > len(places) // 2


@pytest.mark.parametrize("codec", ["pq"], indirect=True)
@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_a_damaged_codebook_takes_its_rows_with_it(closed, embedder, summarizer, how):
    (book,) = set((closed / "summaries").glob("*.safetensors")) - set(shards_of(closed))
    if how == "missing":
        book.unlink()
    else:
        flip(book)
    summarizer.computed.clear()
    with CompressedIndex.open(closed, embedder=embedder) as index:
        (problem,) = index.verify()
        assert str(book) in problem
        if how == "missing":
            with pytest.raises(IndexDamagedError, match=book.name):
                index.summaries(["0"], summarizer.fingerprint)
        assert index.build_summaries(summarizer, repair=True) == 12
        assert index.verify() == []
        assert index.summary_info()[0].rows == {"pq": 12}
        index.summaries(index.ids(), summarizer.fingerprint)


@pytest.mark.parametrize("codec", ["fp16"], indirect=True)
@pytest.mark.parametrize("how", ["missing", "cut", "zeros", "foreign"])
def test_a_damaged_catalogue_is_named_and_all_can_be_started_over(closed, tmp_path, embedder, summarizer, how):
    file = closed / "summaries" / "catalogue.sqlite"
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-4096])
    elif how == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    else:
        with CompressedIndex.create(tmp_path / "other", embedder=embedder) as other:
            other.build_summaries(summarizer)
        shutil.copy(tmp_path / "other" / "summaries" / file.name, file)
    with CompressedIndex.open(closed, embedder=embedder) as index:
        (problem,) = index.verify()
        assert str(file) in problem
        for call in (lambda: index.summaries(["0"], summarizer.fingerprint), lambda: index.build_summaries(summarizer)):
            with pytest.raises(IndexDamagedError, match=r"catalogue\.sqlite.*drop_summaries"):
                call()
        assert len(shards_of(closed)) == 4  # nothing was swept up
        index.drop_summaries()
        assert index.verify() == []
        with pytest.raises(SummaryMissingError):
            index.summaries(["0"], summarizer.fingerprint)
        assert index.build_summaries(summarizer) == 12
        assert index.verify() == []


@pytest.mark.parametrize("codec", ["fp16"], indirect=True)
def test_verify_finds_rows_that_the_catalogue_has_wrong(closed, embedder, summarizer):
    db = sqlite3.connect(closed / "summaries" / "catalogue.sqlite")
    db.execute("UPDATE rows SET position = 2 - position WHERE shard = 2")
    db.execute("DELETE FROM rows WHERE shard = 3 AND position = 1")
    db.commit()
    db.close()
    with CompressedIndex.open(closed, embedder=embedder) as index:
        second, third = index.verify()
        assert "000002.safetensors and the catalogue disagree" in second
        assert "000003.safetensors" in third
        with pytest.raises(IndexDamagedError, match="000002"):
            index.summaries(index.ids()[:6], summarizer.fingerprint)
        assert index.build_summaries(summarizer, repair=True) == 6
        assert index.verify() == []
    db = sqlite3.connect(closed / "summaries" / "catalogue.sqlite")
    db.execute("UPDATE rows SET shard = 77 WHERE shard = 1")
    db.commit()
    db.close()
    with CompressedIndex.open(closed, embedder=embedder) as index:
        assert "3 rows without a shard" in index.verify()[0]


@pytest.mark.parametrize("codec", ["fp16"], indirect=True)
def test_leftovers_are_swept_up_and_strangers_named(closed, tmp_path, embedder, summarizer):
    folder = closed / "summaries"
    shutil.copy(folder / "000001.safetensors", folder / "000099.safetensors")  # as a writer that died leaves one
    (folder / "000100.safetensors.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (closed / "summaries.dropped").mkdir()
    with CompressedIndex.create(tmp_path / "other", embedder=embedder) as other:
        other.add([Passage("0", "text")])
        other.build_summaries(summarizer)
    shutil.copy(tmp_path / "other" / "summaries" / "000001.safetensors", folder / "000055.safetensors")
    with CompressedIndex.open(closed, embedder=embedder, read_only=True) as reader:
        (problem,) = reader.verify()
        assert "000055.safetensors" in problem
        assert "move it away" in problem
    with CompressedIndex.open(closed, embedder=embedder) as index:
        index.build_summaries(summarizer)
        assert not (closed / "summaries.dropped").exists()
        names = {file.name for file in folder.iterdir()} - {"catalogue.sqlite-wal", "catalogue.sqlite-shm"}
        assert names == {
            "catalogue.sqlite", "notes.txt", "000055.safetensors", *(f"00000{n}.safetensors" for n in range(1, 5))
        }  # fmt: skip


@pytest.mark.parametrize("codec", ["fp16"], indirect=True)
def test_a_directory_of_version_1_is_read_and_goes_on_as_version_2(closed, embedder, summarizer):
    file = closed / "manifest.json"
    raw = json.loads(file.read_text())
    for key in ("adapters", "checksum"):
        del raw[key]
    raw["version"] = 1
    file.write_text(json.dumps({**raw, "checksum": _checksum(raw)}))
    shutil.rmtree(closed / "summaries")
    with CompressedIndex.open(closed, embedder=embedder) as index:
        assert index.verify() == []
        assert index.adapters == {}
        assert json.loads(file.read_text())["version"] == 1
        index.build_summaries(summarizer)
        index.set_adapter(summarizer.fingerprint, "adapter")
        assert json.loads(file.read_text())["version"] == 2
        assert index.summaries(["0"], summarizer.fingerprint)[0].adapter == "adapter"
