import os
import threading

import pytest

from ctxcompress_integrations.index import CompressedIndex, compressed_index
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


def test_pairs_are_seen_together_while_a_writer_commits_flushes_and_compacts(path, embedder):
    """Each commit brings or takes a pair: a reader that ever sees half of one has mixed two states."""
    errors, is_done = [], threading.Event()

    def read(memory_map):
        try:
            with CompressedIndex.open(path, embedder=embedder, read_only=True, memory_map=memory_map) as reader:
                while not is_done.is_set():
                    found = sorted(p.id for p in reader.search("q", k=1000))
                    assert found[::2] == [id_[:-1] + "-" for id_ in found[1::2]], found
        except BaseException as error:
            errors.append(error)

    with CompressedIndex.create(path, embedder=embedder, ivf_from=40) as index:
        threads = [threading.Thread(target=read, args=(mapped,)) for mapped in (False, True)]
        for thread in threads:
            thread.start()
        for n in range(60):
            index.add(passages(f"{n}-", f"{n}."))
            if n % 4 == 1:
                index.flush()
            if n % 3 == 2:
                index.delete([f"{n - 1}-", f"{n - 1}."])
            if n % 20 == 19:
                index.compact()
        is_done.set()
        for thread in threads:
            thread.join()
        assert index.verify() == []
    assert not errors, errors


def test_threads_share_one_handle(index, monkeypatch):
    monkeypatch.setattr(compressed_index, "FLUSH_FROM", 7)
    errors = []

    def work(name):
        try:
            for n in range(15):
                index.add(passages(f"{name}{n}"))
                assert index.search(f"text of {name}{n}", k=1)[0].id == f"{name}{n}"
            index.delete([f"{name}0"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert len(index) == 56
    assert index.verify() == []


def test_searches_go_on_while_texts_are_embedded(index, embedder):
    index.add(passages("a"))
    real, is_embedding, may_go_on = embedder.embed_documents, threading.Event(), threading.Event()

    def slow(texts):
        if "text of slow" in texts:
            is_embedding.set()
            assert may_go_on.wait(5)
        return real(texts)

    index._embedder._embedder = None
    embedder.embed_documents = slow
    thread = threading.Thread(target=index.add, args=(passages("slow"),))
    thread.start()
    assert is_embedding.wait(5)
    assert index.search("text of a", k=1)[0].id == "a"
    may_go_on.set()
    thread.join()
    assert "slow" in index


def test_the_log_is_folded_in_when_it_grows(index, path, embedder, monkeypatch):
    monkeypatch.setattr(compressed_index, "FLUSH_FROM", 5)
    index.add(passages("a", "b", "c"))
    assert index._store.n_pending() == 3
    index.add(passages("d", "e"))
    assert index._store.n_pending() == 0
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        assert len(reader.search("q")) == 5
