"""A damaged file is named, with a cure, and never crashed on."""

import json
import shutil
import sqlite3

import pytest

from ctxcompress_integrations.errors import (
    EmbedderMismatchError,
    IndexDamagedError,
    IndexDirectoryError,
    IndexLockedError,
    IndexVersionError,
)
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.records import Passage

FILES = ["manifest.json", "index.faiss", "passages.sqlite"]


@pytest.fixture
def closed(index, path):
    index.add([Passage(str(n), f"text {n} " * 50, metadata={"n": n}) for n in range(40)])
    index.close()
    return path


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


def edit(path, **changes):
    file = path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "half", "last byte", "zeros", "text"])
def test_opening_names_the_damaged_file(closed, embedder, name, how):
    file = closed / name
    size = file.stat().st_size
    if how == "missing":
        file.unlink()
    elif how in ("zeros", "text"):
        file.write_bytes((b"\0" if how == "zeros" else b"text") * size)
    else:
        cut(file, {"empty": 0, "half": size // 2, "last byte": size - (2 if name == "manifest.json" else 1)}[how])
    for options in ({}, {"read_only": True}, {"read_only": True, "memory_map": True}):
        with pytest.raises(IndexDamagedError, match=name) as caught:
            CompressedIndex.open(closed, embedder=embedder, **options).close()
        assert "backup" in str(caught.value)


@pytest.mark.parametrize("name", FILES[:2])
def test_every_changed_byte_is_found_on_opening(closed, embedder, name):
    file = closed / name
    whole = file.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        flip(file, at)
        with pytest.raises((IndexDamagedError, IndexVersionError), match=name):
            CompressedIndex.open(closed, embedder=embedder)
        file.write_bytes(whole)
    CompressedIndex.open(closed, embedder=embedder).close()


def test_changed_bytes_of_the_passages_end_in_our_errors_only(closed, embedder):
    file = closed / "passages.sqlite"
    whole = file.read_bytes()
    n_found = 0
    for at in range(0, len(whole), max(1, len(whole) // 80)):
        flip(file, at)
        try:
            with CompressedIndex.open(closed, embedder=embedder, read_only=True) as index:
                n_found += bool(problems := index.verify())
                assert all("passages.sqlite" in problem or "index.faiss" in problem for problem in problems)
                index.search("q", k=40)
                index.get(index.ids())
        except IndexDirectoryError as error:
            n_found += 1
            assert "passages.sqlite" in str(error) or "index.faiss" in str(error)
        file.write_bytes(whole)
    assert n_found > 10


def test_verify_names_what_opening_did_not_see(closed, embedder):
    with CompressedIndex.open(closed, embedder=embedder, read_only=True, memory_map=True) as index:
        flip(closed / "index.faiss", 200)
        (problem,) = index.verify()
        assert "index.faiss was changed" in problem
        assert "rebuild" in problem
        (closed / "manifest.json").write_text("{")
        assert "manifest.json" in index.verify()[0]


def test_verify_finds_a_changed_text_and_vectors_that_do_not_belong(closed, embedder):
    db = sqlite3.connect(closed / "passages.sqlite")
    db.execute("UPDATE passages SET text = 'forged' WHERE id = '7'")
    db.execute("UPDATE passages SET internal = 1000 WHERE id = '9'")
    db.commit()
    db.close()
    with CompressedIndex.open(closed, embedder=embedder) as index:
        text, lacks, extra = index.verify()
        assert "passages.sqlite" in text
        assert "'7'" in text
        assert "index.faiss lacks the vectors of 1" in lacks
        assert "1 vectors without" in extra
        with pytest.raises(IndexDamagedError, match=r"index\.faiss"):
            index.search("q", k=40)
        with pytest.raises(IndexDamagedError, match=r"index\.faiss"):
            index.vectors_of(["9"])


def test_unreadable_metadata_is_named(closed, embedder):
    db = sqlite3.connect(closed / "passages.sqlite")
    db.execute("UPDATE passages SET metadata = '[' WHERE id = '8'")
    db.commit()
    db.close()
    with CompressedIndex.open(closed, embedder=embedder) as index:
        assert "'8'" in index.verify()[0]
        with pytest.raises(IndexDamagedError, match="'8'"):
            index.get(["8"])
        with pytest.raises(IndexDamagedError, match=r"passages\.sqlite"):
            index.search("q", where={"n": 3})


def test_a_newer_format_is_named(closed):
    edit(closed, version=3, something_new=True)
    with pytest.raises(IndexVersionError, match="upgrade"):
        CompressedIndex.open(closed)
    for call in (CompressedIndex.open, CompressedIndex.rebuild):
        with pytest.raises(IndexVersionError):
            call(closed)


def test_files_of_two_indexes_are_not_mixed(closed, tmp_path, embedder):
    with CompressedIndex.create(tmp_path / "other", embedder=embedder) as other:
        other.add([Passage(str(n), f"other {n}") for n in range(40)])
    shutil.copy(tmp_path / "other" / "passages.sqlite", closed)
    with pytest.raises(IndexDamagedError, match=r"passages\.sqlite belongs to another index"):
        CompressedIndex.open(closed, embedder=embedder)


@pytest.mark.parametrize("old", ["passages.sqlite", "index.faiss", "index.faiss and manifest.json"])
def test_a_file_from_an_older_backup_is_named(closed, tmp_path, embedder, old):
    backup = shutil.copytree(closed, tmp_path / "backup")
    with CompressedIndex.open(closed, embedder=embedder) as index:
        index.add([Passage("7", "new")])  # as many vectors as before: their number gives nothing away
    for name in old.split(" and "):
        shutil.copy(backup / name, closed)
    with pytest.raises(IndexDamagedError, match=old.partition(" ")[0]):
        CompressedIndex.open(closed, embedder=embedder)
    with CompressedIndex.rebuild(closed, embedder=embedder) as index:
        assert index.verify() == []
        assert len(index.search("q", k=100)) == len(index)


@pytest.mark.parametrize("lost", [["index.faiss"], ["manifest.json"], ["index.faiss", "manifest.json"]])
@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "cut short"])
def test_rebuild_embeds_again_what_the_passages_hold(closed, embedder, lost, is_missing):
    with CompressedIndex.open(closed, embedder=embedder) as index:
        index.delete(["3"])
        before = index.search("q", k=50)
    for name in lost:
        cut(closed / name, 30)
    if is_missing:
        for name in lost:
            (closed / name).unlink()
    calls = []
    with CompressedIndex.rebuild(
        closed, embedder=embedder, batch_size=16, progress=lambda *c: calls.append(c)
    ) as index:
        assert index.search("q", k=50) == before
        assert index.verify() == []
        index.add([Passage("new", "new")])
    assert calls == [(16, 39), (32, 39), (39, 39)]
    with CompressedIndex.open(closed, embedder=embedder) as index:
        assert len(index) == 40
        assert index.verify() == []


def test_rebuild_says_what_it_cannot_do(closed, embedder, make_embedder):
    with pytest.raises(ValueError, match="batch_size"):
        CompressedIndex.rebuild(closed, embedder=embedder, batch_size=0)
    with CompressedIndex.open(closed, embedder=embedder), pytest.raises(IndexLockedError):
        CompressedIndex.rebuild(closed, embedder=embedder)
    with pytest.raises(EmbedderMismatchError):
        CompressedIndex.rebuild(closed, embedder=make_embedder(seed=1))
    (closed / "manifest.json").unlink()
    with pytest.raises(IndexDamagedError, match="embedder="):
        CompressedIndex.rebuild(closed)
    cut(closed / "passages.sqlite", 0)
    with pytest.raises(IndexDamagedError, match=r"passages\.sqlite"):
        CompressedIndex.rebuild(closed, embedder=embedder)


def test_rebuild_of_a_sound_index_loses_nothing(closed, embedder):
    with CompressedIndex.rebuild(closed, embedder=embedder) as index:
        assert index.verify() == []
        assert len(index) == 40
