"""An index directory after kill -9, after a power cut between any two steps, and on a full disk."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import index_child as child
from crashes import FullDiskAt, HashEmbedder, around_each_step, environment
from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.vectors import VectorIndex
from ctxcompress_integrations.records import Passage

CHILD = Path(child.__file__)
N_KILLS = 25


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def index(path):
    with CompressedIndex.create(path, embedder=HashEmbedder(), ivf_from=15) as opened:
        yield opened


def contents(path, **options):
    """Text by id in a directory that must be sound, and must find each text by its own vector."""
    with CompressedIndex.open(path, embedder=HashEmbedder(), **options) as index:
        assert index.verify() == []
        state = {passage.id: passage.text for passage in index.get(index.ids())}
        assert len(index) == len(state)
        for id_, text in list(state.items())[:5]:
            best = index.search(text, k=1, where={"step": {"$gte": 0}})[0]
            assert best.score == pytest.approx(1.0, abs=1e-5)
            assert best.text == text or best.id == id_
        return state


def kill_after(path, step, state, seconds):
    """Let a child work for a while and kill it; returns the last step it began and the last it saw committed."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(path), str(step)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    process.stdin.write(json.dumps(state) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "opening\n"
    time.sleep(seconds)
    assert process.poll() is None, "the child ended by itself"
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    began, done = step - 1, step - 1
    for line in output.splitlines(keepends=True):
        if line.endswith("\n"):
            word, number = line.split()
            began, done = (int(number), done) if word == "begin" else (began, int(number))
    return began, done


def test_killed_at_any_instant_nothing_acknowledged_is_lost(path):
    CompressedIndex.create(path, embedder=HashEmbedder(), ivf_from=60).close()
    dice, step, state, n_steps = random.Random(5), 0, {}, 0
    for _ in range(N_KILLS):
        began, done = kill_after(path, step, state, dice.uniform(0.0, 0.25))
        n_steps += done + 1 - step
        for number in range(step, done + 1):
            _, _, state = child.plan(state, number)
        allowed = [state] if began == done else [state, child.plan(state, began)[2]]
        found = contents(path, read_only=True)
        assert found in allowed
        assert contents(path) == found
        state, step = found, done + 2
    assert n_steps > N_KILLS


def test_a_power_cut_between_any_two_steps(index, path, tmp_path, monkeypatch):
    """A copy of the directory is taken at every fsync, rename and SQL statement: what a crash there would leave."""
    crashes = []

    def crash(*_):
        target = tmp_path / f"crash-{len(crashes)}"
        shutil.copytree(path, target, ignore=shutil.ignore_patterns(".lock"))
        crashes.append((target, number))

    around_each_step(monkeypatch, crash)
    index._store._db._db.set_trace_callback(crash)
    states = [{}]
    steps = [
        lambda: index.add([Passage(str(n), f"text {n}", metadata={"step": 0}) for n in range(12)]),
        index.flush,
        lambda: index.add([Passage(str(n), f"new {n}", metadata={"step": 1}) for n in range(8, 20)]),
        lambda: index.delete([str(n) for n in range(0, 20, 3)]),
        index.flush,
        lambda: index.add([Passage("0", "again", metadata={"step": 2})]),
        index.compact,
    ]
    for number, step in enumerate(steps):  # noqa: B007 - crash() reads it
        step()
        states.append({p.id: p.text for p in index.get(index.ids())})
    monkeypatch.undo()
    index._store._db._db.set_trace_callback(None)
    assert len(crashes) > 80
    for target, number in crashes:
        assert contents(target) in (states[number], states[number + 1]), number
        shutil.rmtree(target)


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_a_flush_that_fails_anywhere_can_be_repeated(index, path, monkeypatch, function):
    index.add([Passage(str(n), f"text {n}", metadata={"step": 0}) for n in range(70)])
    real, n_failed = {"os.fsync": os.fsync, "os.replace": os.replace}[function], 0
    for attempt in range(1, 20):
        full = FullDiskAt(attempt, real)
        monkeypatch.setattr(function, full)
        try:
            index.flush()
        except IndexDirectoryError as error:
            assert "No space left" in str(error)
            n_failed += 1
        finally:
            monkeypatch.undo()
        assert index.verify() == []
        assert len(contents(path, read_only=True)) == 70
        if full.left > 0:
            break
        index.add([Passage(f"{function} {attempt}", "more", metadata={"step": 1})])
        index.delete([f"{function} {attempt}"])
    assert n_failed >= 3
    index.close()
    assert len(contents(path)) == 70
    assert not list(path.glob("*.tmp"))


def test_a_failed_write_of_the_vectors_leaves_what_was(index, path, monkeypatch):
    index.add([Passage(str(n), f"text {n}", metadata={"step": 0}) for n in range(30)])

    def full(_, write):
        write(b"the first bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VectorIndex, "write", full)
    with pytest.raises(IndexDirectoryError, match=r"index\.faiss.*No space left"):
        index.close()
    monkeypatch.undo()
    assert len(contents(path)) == 30  # and the lock was let go


FULL_DISK = """
import resource
from crashes import HashEmbedder
from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.records import Passage
index = CompressedIndex.open({path!r}, embedder=HashEmbedder())
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
try:
    for n in range(10_000):
        index.add([Passage(f"{{n}}-{{i}}", f"text {{n}} {{i}} " * 20, metadata={{"step": n}}) for i in range(10)])
        print(n, flush=True)
        if n % 5 == 4:
            index.flush()
except IndexDirectoryError as error:
    print("refused:", error, flush=True)
    assert index.search("text", k=3)
    try:
        index.close()
    except IndexDirectoryError as error:
        print("refused:", error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [150_000, 400_000])
def test_on_a_full_disk_changes_are_refused_and_nothing_is_lost(index, path, limit):
    index.close()
    code = FULL_DISK.format(path=str(path), limit=limit)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    committed = [int(line) for line in lines if line.isdigit()]
    assert committed
    assert any("refused" in line and "space" in line for line in lines)
    found = contents(path)
    assert {f"{n}-{i}" for n in committed for i in range(10)} <= set(found)
    assert len(found) % 10 == 0  # a batch is there as a whole or not at all
    with CompressedIndex.open(path, embedder=HashEmbedder()) as again:
        again.add([Passage("after", "after")])
        assert again.verify() == []


def test_killed_while_it_is_made_it_can_be_made_again(tmp_path, monkeypatch):
    path, crashes = tmp_path / "index", []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def step(*arguments, real=real):
            for _ in range(2):
                target = tmp_path / f"crash-{len(crashes)}"
                crashes.append(shutil.copytree(path, target, ignore=shutil.ignore_patterns(".lock")))
                if len(crashes) % 2:
                    result = real(*arguments)
            return result

        monkeypatch.setattr(os, name, step)
    CompressedIndex.create(path, embedder=HashEmbedder()).close()
    monkeypatch.undo()
    assert len(crashes) >= 8
    for target in crashes:
        with CompressedIndex.create(target, embedder=HashEmbedder(), exist_ok=True) as index:
            index.add([Passage("a", "x")])
            assert index.verify() == []
