"""``ctxcompress bench summaries``: what vectors from an index save at question time, what building them costs, and what
the codecs cost.

A Llama of Llama-3.2-1B's shape with random weights reads passages of 1,536 tokens either as text or as the 50 vectors
that each one becomes (LLoCO, arXiv:2404.07979: 30.7 tokens per vector), and answers with 16 tokens. The vectors come
out of a real index. Times do not depend on the weights; answers do, and mean nothing here.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctxcompress_integrations.evaluation.random_models import LLAMA_1B, shared_llama, word_tokenizer
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.hf.states import embed, last_states
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.records import Passage, SummaryVectors
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor

SEGMENT, N_VECTORS = 1536, 50
CPU_CONTEXTS, GPU_CONTEXTS = (4608, 9216, 15360), (4608, 15360, 32256, 64512, 129024)
N_ANSWER = 16
SMALL = {**LLAMA_1B, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
N_BUILT = 48
CODEC_ROWS = 192
CODEC_BOUNDS = {"fp16": "<= 1", "int8": "<= 0.505", "pq": "<= 0.125"}
"""Bounds of a codec's size against fp16's; int8 is half of it, and four bytes of scale a vector."""


class Drawn:
    """A summarizer that draws its vectors: reading them costs what reading real ones does."""

    def __init__(self, reader: str, width: int) -> None:
        self.fingerprint, self.width = f"drawn-{width}", width
        self.identity: dict[str, Any] = {"method": "drawn", "reader": reader, "width": width}

    def summarize(self, passages: Sequence[Passage]) -> list[SummaryVectors]:
        """``[50, d]`` for each passage, of unit variance."""
        generator = np.random.default_rng(len(passages))
        return [
            SummaryVectors(
                p.id,
                generator.normal(size=(N_VECTORS, self.width)).astype(np.float32),
                self.fingerprint,
                self.identity["reader"],
                SEGMENT,
            )
            for p in passages
        ]


def bench_summaries(report: Callable[[Row], None], *, device: str = "auto") -> None:
    """Measure and hand each row to ``report`` as soon as it is known."""
    target = resolve_device(device)
    tokenizer = word_tokenizer()
    with tempfile.TemporaryDirectory(prefix="ctxcompress-bench-") as folder:
        _codecs(report, Path(folder))
        _building(report, Path(folder), tokenizer, target)
        _asking(report, Path(folder), tokenizer, target)


def _asking(report: Callable[[Row], None], folder: Path, tokenizer: Any, device: torch.device) -> None:
    """Question-time cost: full text against vectors from the index, through the same reader."""
    model = shared_llama(LLAMA_1B, device)
    reader = HFReader(model, tokenizer, max_tokens=1 << 20)
    drawn = Drawn(reader.identity, model.config.hidden_size)
    contexts = GPU_CONTEXTS if device.type == "cuda" else CPU_CONTEXTS
    passages = [Passage(str(i), _words(SEGMENT, seed=i)) for i in range(max(contexts) // SEGMENT)]
    question = "\n\n" + _words(24, seed=999)
    with CompressedIndex.create(folder / "ask.index", embedder=None, dimension=4) as index:
        index.add(passages, vectors=np.eye(len(passages), 4, dtype=np.float32) + 0.1)
        index.build_summaries(drawn)
        reader.generate([passages[0].text, question], max_new_tokens=2)  # warm-up
        for n in contexts:
            used = passages[: n // SEGMENT]
            text = _timed(reader, [*(p.text + "\n\n" for p in used), question])
            started = time.perf_counter()
            vectors = index.summaries([p.id for p in used], drawn.fingerprint)
            reading = time.perf_counter() - started
            soft = reading + _timed(reader, [*vectors, question])
            name = f"Llama-3.2-1B's shape, bf16, {device.type}, context {n}, {N_ANSWER} new tokens"
            report(Row(f"{name}: full text, to the last token", text, "s", n=1))
            report(Row(f"{name}: {len(used) * N_VECTORS} vectors, to the last token", soft, "s", n=1))
            report(Row(f"{name}: full text / vectors, time", text / soft, "x", ">= 7.62"))
            report(Row(f"{name}: reading the vectors / the whole", reading / soft, "share", "<= 0.02"))


def _building(report: Callable[[Row], None], folder: Path, tokenizer: Any, device: torch.device) -> None:
    """The offline build against the bare model's forward over the same positions."""
    model = shared_llama(SMALL, device)
    summarizer = AutoCompressor.untrained(model, tokenizer, n_summary=N_VECTORS, segment_tokens=SEGMENT)
    summarizer.module.to(device)
    passages = [Passage(str(i), _words(SEGMENT // 4, seed=i)) for i in range(N_BUILT)]
    n_forwards = [0]
    handle = model.model.register_forward_hook(lambda *_: n_forwards.__setitem__(0, n_forwards[0] + 1))
    summarizer.summarize(passages[:2])  # warm-up
    bare = statistics.median(_bare(model, tokenizer, passages, summarizer.batch_tokens) for _ in range(3))
    with CompressedIndex.create(folder / "build.index", embedder=None, dimension=4) as index:
        index.add(passages, vectors=np.ones((len(passages), 4), np.float32))
        summarizer.fingerprint  # noqa: B018 - hashes the weights, once for a corpus of any size
        started = time.perf_counter()
        index.build_summaries(summarizer, batch_size=N_BUILT)
        seconds = time.perf_counter() - started
        n_before = n_forwards[0]
        n_again = index.build_summaries(summarizer)
        report(Row("offline build: passages of 384 tokens", N_BUILT / seconds, "passages/s", n=N_BUILT))
        report(Row("offline build / the bare model's batched forward: speed", bare / seconds, "x", ">= 0.85"))
        report(Row("a rerun over a finished corpus: forwards", n_forwards[0] - n_before + n_again, "forwards", "<= 0"))
    handle.remove()


@torch.no_grad()
def _bare(model: Any, tokenizer: Any, passages: Sequence[Passage], batch_tokens: int) -> float:
    """Seconds of the model alone over the passages' tokens and as many summary tokens, in full batches."""
    ids = [tokenizer(p.text)["input_ids"] + [1] * N_VECTORS for p in passages]
    size = max(1, batch_tokens // len(ids[0]))
    started = time.perf_counter()
    for start in range(0, len(ids), size):
        last_states(model, embed(model, ids[start : start + size]))
    return time.perf_counter() - started


def _codecs(report: Callable[[Row], None], folder: Path) -> None:
    """Sizes, errors and read times of the codecs, on vectors of a 7B reader's width."""
    width, n_passages = 4096, CODEC_ROWS
    passages = [Passage(str(i), f"passage {i}") for i in range(n_passages)]
    n_bytes: dict[str, int] = {}
    for codec, bound in CODEC_BOUNDS.items():
        drawn = Drawn("none", width)
        with CompressedIndex.create(folder / f"{codec}.index", embedder=None, dimension=4) as index:
            index.add(passages, vectors=np.ones((n_passages, 4), np.float32))
            index.build_summaries(drawn, codec=codec)
            index.compact()
            (info,) = index.summary_info()
            n_bytes[codec] = info.n_bytes
            ids = [p.id for p in passages[:8]]
            seconds = []
            for _ in range(5):
                index.limit_summary_caches(host_bytes=0)
                started = time.perf_counter()
                for found in index.summaries(ids, drawn.fingerprint):
                    np.asarray(found.vectors).sum()  # touches every page
                seconds.append(time.perf_counter() - started)
        name = f"{codec}, [{N_VECTORS}, {width}]"
        report(Row(f"{name}: bytes per passage", info.n_bytes / n_passages, "bytes", n=n_passages))
        report(Row(f"{name}: size against fp16", n_bytes[codec] / n_bytes["fp16"], "x", bound))
        report(Row(f"{name}: relative error", info.relative_error, "mean of |x - x'| / |x|", n=info.n_vectors))
        report(Row(f"{name}: reading 8 passages, warm", 1000 * statistics.median(seconds), "ms", n=len(seconds)))


def _timed(reader: HFReader, parts: Sequence[Any]) -> float:
    started = time.perf_counter()
    reader.generate(parts, max_new_tokens=N_ANSWER)
    return time.perf_counter() - started


def _words(n: int, *, seed: int) -> str:
    drawn = np.random.default_rng(seed).integers(0, 30000, n)
    return " ".join(f"w{i}" for i in drawn)
