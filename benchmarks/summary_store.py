"""Bytes, errors and times of the summary store for rows of 50 x 4096, what a 7B reader takes for a 1536-token chunk.

    python benchmarks/summary_store.py            # fp16 and int8; add pq, whose codebook takes minutes to train

The vectors are Gaussian noise: the worst case of every codec. Times are medians of 30 reads of 8 random rows.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctxcompress_integrations import CompressedIndex, Passage, SummaryVectors

N_ROWS, N_VECTORS, WIDTH, N_READ = 192, 50, 4096, 8


class Noise:
    """A summarizer that makes up its vectors."""

    fingerprint = "noise"

    def __init__(self) -> None:
        self.identity, self.seconds = {"method": "noise", "reader": "none"}, 0.0
        self.dice = np.random.default_rng(0)

    def summarize(self, passages: list[Passage]) -> list[SummaryVectors]:
        start = time.perf_counter()
        rows = self.dice.standard_normal((len(passages), N_VECTORS, WIDTH), dtype=np.float32)
        self.seconds += time.perf_counter() - start
        return [SummaryVectors(p.id, row, "noise", "none", 1536) for p, row in zip(passages, rows, strict=True)]


def milliseconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def measure(codec: str, path: Path) -> str:
    noise, dice = Noise(), np.random.default_rng(1)
    with CompressedIndex.create(path, embedder=None, dimension=2) as index:
        passages = [Passage(str(n), f"text {n}") for n in range(N_ROWS)]
        index.add(passages, vectors=dice.standard_normal((N_ROWS, 2)))
        start = time.perf_counter()
        index.build_summaries(noise, codec=codec)
        build = 1e3 * (time.perf_counter() - start - noise.seconds) / N_ROWS
        (info,) = index.summary_info()
        if info.rows != {codec: N_ROWS}:
            raise SystemExit(f"not all rows are {codec}: {info.rows}")

        def read() -> None:
            index.summaries([str(n) for n in dice.choice(N_ROWS, N_READ, replace=False)], "noise")

        first = milliseconds(lambda: (index._summaries._open.clear(), index._summaries.host.clear(), read()))
        index.limit_summary_caches(host_bytes=0)
        index.summaries(index.ids(), "noise")  # every row has been checked
        decoded = milliseconds(read)
        index.limit_summary_caches(host_bytes=1 << 30)
        index.summaries(index.ids(), "noise")
        warm = milliseconds(read)
    return (
        f"| {codec} | {info.n_bytes / N_ROWS:,.0f} | {info.relative_error:.2g} | {build:.1f} | {first:.1f} | "
        f"{decoded:.2f} | {warm:.2f} |"
    )


if __name__ == "__main__":
    print("| codec | bytes a row | relative error | store, ms a row | first read of 8, ms | again | from the cache |")
    for name in sys.argv[1:] or ("fp16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, Path(folder) / "index"), flush=True)
