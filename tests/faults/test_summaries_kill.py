"""The summaries of an index after kill -9, after a power cut between any two steps, and on a full disk.

CTXCOMPRESS_KILLS=200 kills more often.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import summaries_child as child
from crashes import FullDiskAt, HashEmbedder, around_each_step, environment
from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.rows import text_sha256
from ctxcompress_integrations.index.summaries import codecs, keeper
from ctxcompress_integrations.records import Passage

CHILD = Path(child.__file__)
N_KILLS = int(os.environ.get("CTXCOMPRESS_KILLS", "25"))
TOLERANCE = {"fp16": 1e-3, "int8": 0.02, "pq": 1.0}  # of the length of a vector
FINGERPRINT = child.HashSummarizer.fingerprint


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "index"
    CompressedIndex.create(path, embedder=HashEmbedder()).close()
    return path


@pytest.fixture
def small_shards(monkeypatch):
    for module, name in ((keeper, "TARGET_BYTES"), (keeper, "MAX_SMALL"), (codecs, "TRAIN_FROM")):
        monkeypatch.setattr(module, name, getattr(module, name))  # what is set next is undone
    child.small_shards()


def key(text):
    return bytes.fromhex(text_sha256(text))


def contents(path, codec, **options):
    """Texts of a directory that must be sound, and the hashes of texts that have a row; every row is looked at."""
    with CompressedIndex.open(path, embedder=HashEmbedder(), **options) as index:
        assert index.verify() == []
        known = index._summaries.known(FINGERPRINT)
        passages = [passage for passage in index.get(index.ids()) if key(passage.text) in known]
        found = index.summaries([passage.id for passage in passages], FINGERPRINT)
        for passage, summary in zip(passages, found, strict=True):
            exact = child.HashSummarizer().vectors(passage.text)
            assert summary.n_tokens == len(passage.text)
            assert summary.vectors.shape == exact.shape
            off = np.linalg.norm(summary.vectors - exact, axis=1) / np.linalg.norm(exact, axis=1)
            assert off.max() < TOLERANCE[codec]
        return {passage.text for passage in index.get(index.ids())}, known


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def kill_after(path, step, codec, seconds, acknowledged):
    """Let a child work for a while and kill it; returns the last step it began.

    The while is ``seconds``, counted from the first commit it was told of where ``acknowledged`` names their log: then
    a slow machine, too, gets something done between kills.
    """
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(path), str(step), codec],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout.readline() == "opening\n"
    n_lines, deadline = len(lines(acknowledged)) if acknowledged else -1, time.monotonic() + 60
    while acknowledged and len(lines(acknowledged)) == n_lines and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    return max([step - 1, *(int(line) for line in output.splitlines(keepends=True) if line.endswith("\n"))])


def test_killed_at_any_instant_nothing_finished_is_computed_again(path):
    dice, step, finished, n_computed = random.Random(7), 0, set(), 0
    computed, acknowledged = Path(f"{path}.computed"), Path(f"{path}.acknowledged")
    for number in range(N_KILLS):
        codec = ("fp16", "int8", "pq")[3 * number // N_KILLS]
        step = kill_after(path, step, codec, dice.uniform(0.0, 0.3), acknowledged if number % 2 else None) + 1
        new = lines(computed)[n_computed:]
        n_computed += len(new)
        assert len(new) == len(set(new))
        assert not {key(text) for text in new} & finished
        texts, known = contents(path, codec, read_only=True)
        assert {key(text) for text in texts & set(lines(acknowledged))} <= known
        assert contents(path, codec) == (texts, known)
        finished |= known
    assert len(finished) >= 5 * (N_KILLS // 2)  # a batch has six texts, the last one of a build fewer
    with CompressedIndex.open(path, embedder=HashEmbedder()) as index:
        summarizer = child.HashSummarizer()
        index.build_summaries(summarizer)
        assert not {key(text) for text in summarizer.computed} & finished
        index.compact()
        assert index.verify() == []
        (info,) = index.summary_info()
        assert (info.n_missing, info.n_unused) == (0, 0)
        on_disk = {file.name for file in (path / "summaries").glob("*.safetensors*")}
        assert on_disk == {Path(f"{e.number:06d}.safetensors").name for e in index._summaries._catalogue.entries()}


@pytest.mark.parametrize("codec", ["int8", "pq"])
def test_a_power_cut_between_any_two_steps(path, tmp_path, monkeypatch, small_shards, codec):
    """A copy of the directory is taken at every fsync, rename and SQL statement: what a crash there would leave."""
    crashes, state = [], {"finished": set(), "files": None}

    def crash(*_):
        files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.suffix != ".sqlite-shm"}
        target = tmp_path / f"crash-{len(crashes)}"
        if files == state["files"]:  # a SELECT, or the other side of an fsync: the same crash, but more was finished
            target, _ = crashes.pop()
        else:
            shutil.copytree(path, target, ignore=shutil.ignore_patterns(".lock"))
        state["files"] = files
        crashes.append((target, state["finished"]))

    def progress(*_):
        state["finished"] = state["finished"] | {key(text) for text in summarizer.computed}

    def change(start, stop):
        index.add([Passage(str(n % 90), f"text {start} {n // 2}", metadata={}) for n in range(start, stop)])

    def build():
        index.build_summaries(summarizer, codec=codec, batch_size=8, progress=progress)

    summarizer = child.HashSummarizer()
    with CompressedIndex.open(path, embedder=HashEmbedder()) as index:
        change(0, 30)
        index.build_summaries(summarizer, codec=codec, batch_size=15, progress=progress)  # makes the catalogue
        index.delete(["0"])
        with monkeypatch.context() as patched:
            around_each_step(patched, crash)
            index._summaries._catalogue._db._db.set_trace_callback(crash)
            change(30, 90)
            build()
            # What compacting leaves behind may be computed again; what it takes along may not, at no step of it.
            state["finished"] &= {key(passage.text) for passage in index.get(index.ids())}
            index.compact()
            change(90, 100)
            build()
        index._summaries._catalogue._db._db.set_trace_callback(None)
        assert index.summary_info()[0].rows.keys() == {codec}
    assert len(crashes) > 25  # all different
    for target, finished in crashes:
        contents(target, codec, read_only=True)
        with CompressedIndex.open(target, embedder=HashEmbedder()) as index:
            again = child.HashSummarizer()
            index.build_summaries(again)
            assert not {key(text) for text in again.computed} & finished
            assert index.summary_info()[0].n_missing == 0
            index.compact()
            assert index.verify() == []
        shutil.rmtree(target)


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_a_first_build_a_merge_and_a_drop_cut_short_at_any_step_can_be_repeated(
    path, monkeypatch, small_shards, function
):
    """Each step fails once, as on a full disk; everything after it goes on as if nothing had been."""
    n_failed, summarizer = 0, child.HashSummarizer()
    with CompressedIndex.open(path, embedder=HashEmbedder()) as index:
        index.add([Passage(str(n), f"text {n}") for n in range(12)])

        def work():
            index.build_summaries(summarizer, batch_size=2)
            index.drop_summaries()

        real = getattr(os, function.removeprefix("os."))
        for attempt in range(1, 60):
            full = FullDiskAt(attempt, real)
            monkeypatch.setattr(function, full)
            try:
                work()
            except IndexDirectoryError as error:
                assert "No space left" in str(error)
                n_failed += 1
            finally:
                monkeypatch.setattr(function, real)
            assert index.verify() == []
            work()
            if full.left > 0:
                break
    assert n_failed >= {"os.fsync": 12, "os.replace": 7}[function]
    assert contents(path, "fp16")[1] == set()


FULL_DISK = """
import resource
import summaries_child as child
from crashes import HashEmbedder
from ctxcompress_integrations.errors import IndexDirectoryError
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.summaries import keeper
keeper.TARGET_BYTES, keeper.MAX_SMALL = 10**9, {n_small}
index = CompressedIndex.open({path!r}, embedder=HashEmbedder())
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
summarizer = child.HashSummarizer({path!r} + ".computed")
try:
    index.build_summaries(summarizer, batch_size={batch_size}, progress=lambda done, total: print(done, flush=True))
except IndexDirectoryError as error:
    print("refused:", error, flush=True)
assert len(index.summaries([str(n) for n in range({batch_size})], summarizer.fingerprint)) == {batch_size}
try:
    index.close()
except IndexDirectoryError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
@pytest.mark.parametrize(("limit", "batch_size", "n_small"), [(60_000, 20, 30), (200_000, 4, 10_000)])
def test_on_a_full_disk_the_build_stops_and_nothing_is_lost(path, limit, batch_size, n_small):
    """Once a merged shard does not fit, once the catalogue does not."""
    with CompressedIndex.open(path, embedder=HashEmbedder()) as index:
        index.add([Passage(str(n), f"text {n}") for n in range(3000)], batch_size=3000)
    code = FULL_DISK.format(path=str(path), limit=limit, batch_size=batch_size, n_small=n_small)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    output = done.stdout.splitlines()
    committed = max(int(line) for line in output if line.isdigit())
    assert any("refused" in line and "space" in line for line in output)
    _, known = contents(path, "fp16")
    assert {key(f"text {n}") for n in range(committed)} <= known
    with CompressedIndex.open(path, embedder=HashEmbedder()) as again:
        summarizer = child.HashSummarizer()
        assert again.build_summaries(summarizer) == 3000 - len(known)
        assert not {key(text) for text in summarizer.computed} & known
        assert again.verify() == []
