"""``ctxcompress bench lm-infinite``: what a long text costs under LM-Infinite, and what full attention costs.

Both sides are the same model with random weights over the same tokens; the plain side is transformers' SDPA with its
``DynamicCache``. The paper's ratios at 32k (3.16x encoding, 2.72x decoding, memory 1/7.5) were against a slower one,
without flash attention; here they are held against SDPA. Times and bytes do not depend on what the weights say.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache, StaticCache

from ctxcompress_integrations.evaluation.memory import free_memory, keep_no_freed_memory, peak_memory
from ctxcompress_integrations.evaluation.random_models import random_decoder
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.patches.lm_infinite import LMInfinite

SMALL = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}
LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 131072,
}
CPU_LENGTHS, GPU_LENGTHS = (2048, 4096, 8192, 16384, 32768), (8192, 16384, 32768, 65536, 131072)
N_GLOBAL, CPU_WINDOW, GPU_WINDOW = 32, 512, 4096
TARGET_LENGTH, CHUNK, N_STEPS, REPEATS = 32768, 1024, 16, 3


class _Side(NamedTuple):
    """One way to run the model."""

    name: str
    patch: Callable[[Any], AbstractContextManager[Any]]


class _Bench:
    """The model, the text, and where rows go."""

    def __init__(self, report: Callable[[Row], None], device: torch.device) -> None:
        is_gpu = device.type == "cuda"
        with device:
            self.model = random_decoder("llama", LLAMA_2_7B if is_gpu else SMALL, seed=0)
        self.model.to(torch.bfloat16 if is_gpu else torch.float32)
        self.report, self.device = report, device
        self.lengths = GPU_LENGTHS if is_gpu else CPU_LENGTHS
        self.at = min(self.lengths, key=lambda n: abs(n - TARGET_LENGTH))  # where full attention is compared
        self.window = GPU_WINDOW if is_gpu else CPU_WINDOW
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 1000, (1, max(self.lengths)), generator=generator).to(device)
        self.ours, self.full = _Side("lm-infinite", LMInfinite(N_GLOBAL, self.window)), _Side("full SDPA", nullcontext)

    def encode(self, side: _Side, n: int, chunk: int) -> Any:
        """The cache after the first ``n`` tokens; waits for the device."""
        cache = DynamicCache()
        with torch.inference_mode(), side.patch(self.model):
            for start in range(0, n, chunk):
                state = self.model.model(self.tokens[:, start : min(start + chunk, n)], past_key_values=cache)
            state.last_hidden_state[:, -1].cpu()
        return cache

    def seconds(self, side: _Side, n: int, chunk: int) -> float:
        """Median seconds of :meth:`encode`, reported."""
        found = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            self.encode(side, n, chunk)
            found.append(time.perf_counter() - started)
        median = statistics.median(found)
        name = f"{side.name} n={n}: encoding {_way(n, chunk)}"
        self.report(Row(name, median, "s", n=REPEATS, spread=(min(found), max(found))))
        return median

    def seconds_per_token(self, side: _Side, cache: Any, what: str) -> float:
        """Median seconds of a token after the text that fills ``cache``, reported."""
        found = []
        with torch.inference_mode(), side.patch(self.model):
            for _ in range(N_STEPS + 1):
                started = time.perf_counter()
                self.model.model(self.tokens[:, :1], past_key_values=cache).last_hidden_state.cpu()
                found.append(1000 * (time.perf_counter() - started))
        median = statistics.median(found[1:])  # the first one warms up
        self.report(Row(what, median, "ms", n=N_STEPS, spread=(min(found[1:]), max(found[1:]))))
        return median / 1000

    def peak(self, side: _Side, n: int, chunk: int) -> float:
        """Bytes that memory rises by while :meth:`encode` runs, reported."""
        found = max(1.0, peak_memory(partial(self.encode, side, n, chunk), self.device))
        self.report(Row(f"{side.name} n={n}: peak extra memory {_way(n, chunk)}", found / 2**20, "MiB"))
        return found

    def slope(self, what: str, values: list[float], target: str | None) -> None:
        """The exponent with which ``values`` grow with the lengths, reported."""
        found = float(np.polyfit(np.log(self.lengths), np.log(values), 1)[0])
        self.report(Row(f"{what} growth exponent over n", found, "log-log slope", target, len(values)))

    def too_large(self) -> str | None:
        """Why full attention cannot run here; None when it can."""
        config = self.model.config
        cache = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers
        size = next(self.model.parameters()).element_size()
        n_bytes = 3 * self.at * (cache + 4 * config.intermediate_size) * size  # a copy of the cache, and room
        is_too_large = n_bytes > free_memory(self.device)
        return f"cache and activations take {n_bytes / 2**30:.1f} GiB" if is_too_large else None


def bench_lm_infinite(report: Callable[[Row], None], *, device: str = "auto") -> None:
    """Measure and hand each row to ``report`` as soon as it is known: first all times, then all memory."""
    bench = _Bench(report, resolve_device(device))
    for side in (bench.ours, bench.full):
        bench.encode(side, min(bench.lengths), CHUNK)  # warm-up: thread pools, kernels
    why = bench.too_large()
    chunked = [bench.seconds(bench.ours, n, CHUNK) for n in bench.lengths]
    bench.slope(f"lm-infinite: time {_way(0, CHUNK)}", chunked, "<= 1.1")
    whole = [bench.seconds(bench.ours, n, n) for n in bench.lengths]
    bench.slope("lm-infinite: time in one forward", whole, None)
    _times_against_full(bench, chunked[bench.lengths.index(bench.at)], why)
    keep_no_freed_memory()
    peaks = [bench.peak(bench.ours, n, n) for n in bench.lengths]
    bench.slope("lm-infinite: memory in one forward", peaks, "<= 1.1")
    _memory_against_full(bench, peaks[bench.lengths.index(bench.at)], why)


def _times_against_full(bench: _Bench, ours: float, why: str | None) -> None:
    """Encoding and decoding at one length beside full attention, which reads its text the faster of two ways."""
    n, report = bench.at, bench.report
    faster = f"full SDPA / lm-infinite n={n}: time"
    if why is not None:
        report(Row(f"{faster} of encoding", None, "x", ">= 3.16", why=why))
        report(Row(f"{faster} per decoded token", None, "x", ">= 2.72", why=why))
        return
    full = min(bench.seconds(bench.full, n, n), bench.seconds(bench.full, n, CHUNK))
    report(Row(f"{faster} of encoding", full / ours, "x", ">= 3.16"))
    static = StaticCache(config=bench.model.config, max_cache_len=n + N_STEPS + 1)
    with torch.inference_mode():
        bench.model.model(bench.tokens[:, :n], past_key_values=static)
    after = f"n={n}: a decoded token"
    step = bench.seconds_per_token(bench.ours, bench.encode(bench.ours, n, CHUNK), f"lm-infinite {after}")
    plain = bench.seconds_per_token(bench.full, bench.encode(bench.full, n, n), f"full SDPA {after}")
    fixed = bench.seconds_per_token(bench.full, static, f"full SDPA {after}, StaticCache (copies nothing)")
    report(Row(f"{faster} per decoded token", plain / step, "x", ">= 2.72"))
    report(Row(f"{faster} per decoded token, StaticCache", fixed / step, "x"))


def _memory_against_full(bench: _Bench, whole: float, why: str | None) -> None:
    """Peak memory at one length: in chunks only the cache can grow, in one forward every activation does."""
    n, report = bench.at, bench.report
    measure = f"lm-infinite / full SDPA n={n}: peak extra memory"
    ours = bench.peak(bench.ours, n, CHUNK)
    if why is not None:
        report(Row(f"{measure}, both in chunks", None, "x", "<= 0.2", why=why))
        return
    full, full_whole = bench.peak(bench.full, n, CHUNK), bench.peak(bench.full, n, n)
    report(Row(f"{measure}, both in chunks", ours / full, "x", "<= 0.2"))
    report(Row(f"{measure}, ours in chunks, full in one forward", ours / full_whole, "x", "<= 0.2"))
    report(Row(f"{measure}, both in one forward (activations, alike on both sides)", whole / full_whole, "x"))


def _way(n: int, chunk: int) -> str:
    return "in one forward" if chunk == n else f"in chunks of {chunk}"
