import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from ctxcompress_integrations.index import CompressedIndex, compressed_index
from ctxcompress_integrations.index.vectors import VectorIndex
from ctxcompress_integrations.records import Passage


def passages(*ids):
    return [Passage(id_, f"text of {id_}") for id_ in ids]


@pytest.fixture(params=[False, True], ids=["in-memory", "mapped"])
def reader(index, path, embedder, request):
    index.add(passages("a", "b"))
    index.flush()
    with CompressedIndex.open(path, embedder=embedder, read_only=True, memory_map=request.param) as opened:
        yield opened


def test_a_reader_follows_the_writer(index, reader):
    assert reader.search("text of a", k=1)[0].id == "a"
    index.add(passages("c"))
    assert reader.search("text of c", k=1)[0].id == "c"
    assert reader.generation == index.generation
    index.delete(["a"])
    assert [p.id for p in reader.search("text of a")] != ["a"]
    assert "a" not in reader
    assert len(reader) == 2
    index.add([Passage("b", "changed"), *passages("d")])
    index.compact()
    assert reader.get(["b"])[0].text == "changed"
    assert reader.search("changed", k=1)[0].score == pytest.approx(1.0)
    index.add(passages("e"))
    index.flush()
    index.delete(["e"])
    assert reader.search("q", k=9) == index.search("q", k=9)
    assert reader.verify() == []


def test_a_reader_survives_the_writer(index, reader):
    index.add(passages("c"))
    index.close()
    assert reader.search("text of c", k=1)[0].id == "c"
    assert reader.verify() == []


def test_mapping_holds_until_a_change_waits_in_the_log(index, path, embedder):
    index.add(passages("a"))
    index.flush()
    with CompressedIndex.open(path, embedder=embedder, read_only=True, memory_map=True) as reader:
        assert reader._live._vectors.is_mapped
        index.add(passages("b"))
        assert reader.search("text of b", k=1)[0].id == "b"
        assert not reader._live._vectors.is_mapped
    index.close()
    with CompressedIndex.open(path, embedder=embedder, memory_map=True) as writer:
        assert writer._live._vectors.is_mapped
        writer.delete(["a"])
        assert [p.id for p in writer.search("q")] == ["b"]


def test_a_reader_leaves_the_files_as_they_are(index, path, embedder):
    index.add(passages("a"))
    index.close()
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        reader.search("q")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_directory_that_cannot_be_written_is_read(index, path, embedder, monkeypatch):
    index.add(passages("a"))
    index.close()
    real = os.access
    monkeypatch.setattr("os.access", lambda p, mode: mode != os.W_OK and real(p, mode))
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        assert reader.search("text of a")[0].id == "a"
        assert reader.verify() == []
        assert not list(path.glob("*-shm"))


def test_where_nothing_can_be_written_a_log_left_behind_is_not_overlooked(index, path, embedder, monkeypatch):
    index.add(passages("a"))  # still in the -wal file
    real = os.access
    monkeypatch.setattr("os.access", lambda p, mode: mode != os.W_OK and real(p, mode))
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        assert reader.ids() == ["a"]


@pytest.mark.parametrize("is_open", [False, True])
def test_where_nothing_can_be_written_a_writer_is_followed(index, path, embedder, monkeypatch, is_open):
    index.add(passages(*"abc"))
    if not is_open:
        index.close()
    real = os.access
    monkeypatch.setattr("os.access", lambda p, mode: mode != os.W_OK and real(p, mode))
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        assert reader.ids() == list("abc")
        monkeypatch.setattr("os.access", real)
        for turn in range(3):
            with CompressedIndex.open(path, embedder=embedder) if not is_open else nullcontext(index) as writer:
                writer.add(passages(*(f"{turn}-{i}" for i in range(300))))
                writer.delete(["a"])
                monkeypatch.setattr("os.access", lambda p, mode: mode != os.W_OK and real(p, mode))
                assert len(reader) == len(writer)
                monkeypatch.setattr("os.access", real)
            monkeypatch.setattr("os.access", lambda p, mode: mode != os.W_OK and real(p, mode))
            assert len(reader.ids()) == 300 * (turn + 1) + 2
            assert reader.search(f"text of {turn}-7")[0].id == f"{turn}-7"
            assert reader.verify() == []
            monkeypatch.setattr("os.access", real)


def test_pairs_are_seen_together_while_a_writer_commits_flushes_and_compacts(path, embedder):
    """Each commit brings or takes a pair: a reader that ever sees half of one has mixed two states."""
    is_done = threading.Event()

    def read(memory_map):
        with CompressedIndex.open(path, embedder=embedder, read_only=True, memory_map=memory_map) as reader:
            while not is_done.is_set():
                found = sorted(p.id for p in reader.search("q", k=1000))
                assert found[::2] == [id_[:-1] + "-" for id_ in found[1::2]], found

    with CompressedIndex.create(path, embedder=embedder, ivf_from=40) as index, ThreadPoolExecutor() as pool:
        readers = [pool.submit(read, memory_map) for memory_map in (False, True)]
        try:
            for n in range(60):
                index.add(passages(f"{n}-", f"{n}."))
                if n % 4 == 1:
                    index.flush()
                if n % 3 == 2:
                    index.delete([f"{n - 1}-", f"{n - 1}."])
                if n % 20 == 19:
                    index.compact()
        finally:
            is_done.set()
        for reader in readers:
            reader.result()
        assert index.verify() == []


def test_threads_share_one_handle(index, monkeypatch):
    monkeypatch.setattr(compressed_index, "FLUSH_FROM", 7)

    def work(name):
        for n in range(15):
            index.add(passages(f"{name}{n}"))
            assert index.search(f"text of {name}{n}", k=1)[0].id == f"{name}{n}"
        index.delete([f"{name}0"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(index) == 56
    assert index.verify() == []


def test_searches_go_on_while_texts_are_embedded(index, embedder):
    index.add(passages("a"))
    real, is_embedding, may_go_on = embedder.vector, threading.Event(), threading.Event()

    def slow(text):
        if text == "text of slow":
            is_embedding.set()
            assert may_go_on.wait(5)
        return real(text)

    embedder.vector = slow
    thread = threading.Thread(target=index.add, args=(passages("slow"),))
    thread.start()
    assert is_embedding.wait(5)
    assert index.search("text of a", k=1)[0].id == "a"
    may_go_on.set()
    thread.join()
    assert "slow" in index


def test_a_replay_that_failed_half_way_starts_from_the_file(index, path, embedder, monkeypatch):
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        index.add(passages("a", "b"))
        real = VectorIndex.apply

        def fail_late(vectors, changes):
            real(vectors, changes)
            raise MemoryError

        monkeypatch.setattr(VectorIndex, "apply", fail_late)
        with pytest.raises(MemoryError):
            reader.search("q")
        monkeypatch.undo()
        assert len(reader.search("q")) == 2


def test_the_log_is_folded_in_when_it_grows(index, path, embedder, monkeypatch):
    monkeypatch.setattr(compressed_index, "FLUSH_FROM", 5)
    index.add(passages("a", "b", "c"))
    assert index._store.n_pending() == 3
    index.add(passages("d", "e"))
    assert index._store.n_pending() == 0
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        assert len(reader.search("q")) == 5
