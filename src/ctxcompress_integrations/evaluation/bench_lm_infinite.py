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
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from ctxcompress_integrations.evaluation.memory import free_memory, keep_no_freed_memory, peak_memory
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.load import random_decoder, resolve_device
from ctxcompress_integrations.hf.streaming import read
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


_Sides: TypeAlias = tuple[_Side, _Side]


def bench_lm_infinite(report: Callable[[Row], None], *, device: str = "auto") -> None:
    """Measure and hand each row to ``report`` as soon as it is known: first all times, then all memory."""
    target = resolve_device(device)
    is_gpu = target.type == "cuda"
    lengths = GPU_LENGTHS if is_gpu else CPU_LENGTHS
    with target:
        model = random_decoder("llama", LLAMA_2_7B if is_gpu else SMALL, seed=0)
    model.to(torch.bfloat16 if is_gpu else torch.float32)
    window = GPU_WINDOW if is_gpu else CPU_WINDOW
    sides = _Side("lm-infinite", LMInfinite(N_GLOBAL, window)), _Side("full SDPA", nullcontext)
    ours = sides[0]
    at = min(lengths, key=lambda n: abs(n - TARGET_LENGTH))
    tokens = torch.randint(0, 1000, (1, max(lengths) + 1), generator=torch.Generator().manual_seed(0)).to(target)
    why = _too_large(model, at, target)
    for side in sides:
        encode(model, side.patch, tokens[:, : 2 * window])  # warm-up: thread pools, kernels
    seconds = [_encoding(report, model, ours, tokens[:, :n]) for n in lengths]
    report(Row("lm-infinite: time growth exponent over n", _slope(lengths, seconds), "log-log slope", "<= 1.1"))
    _against_full(report, model, sides, tokens[:, : at + 1], seconds[lengths.index(at)], why)
    keep_no_freed_memory()
    peaks = [_peak(partial(encode, model, ours.patch, tokens[:, :n]), target) for n in lengths]
    for n, peak in zip(lengths, peaks, strict=True):
        report(Row(f"lm-infinite n={n}: peak extra memory of one forward", peak / 2**20, "MiB"))
    report(Row("lm-infinite: memory growth exponent over n", _slope(lengths, peaks), "log-log slope", "<= 1.1"))
    _memory_against_full(report, model, sides, tokens[:, :at], peaks[lengths.index(at)], why)


@torch.inference_mode()
def encode(model: Any, patch: Callable[[Any], AbstractContextManager[Any]], tokens: Tensor) -> Tensor:
    """The last token's state ``[b, d]`` after one forward that fills a cache; no logits."""
    with patch(model):
        state: Tensor = model.model(tokens, past_key_values=DynamicCache()).last_hidden_state[:, -1].cpu()
        return state


@torch.inference_mode()
def decode(
    model: Any, patch: Callable[[Any], AbstractContextManager[Any]], tokens: Tensor, cache: Any
) -> tuple[float, float, float]:
    """Seconds per token beyond a past of ``tokens`` ``[1, n]``: median, least and most of ``N_STEPS``."""
    found = []
    with patch(model):
        model.model(tokens[:, :-1], past_key_values=cache)
        for _ in range(N_STEPS + 1):
            started = time.perf_counter()
            model.model(tokens[:, -1:], past_key_values=cache).last_hidden_state.cpu()
            found.append(time.perf_counter() - started)
    return statistics.median(found[1:]), min(found[1:]), max(found[1:])


def _encoding(report: Callable[[Row], None], model: Any, side: _Side, tokens: Tensor) -> float:
    """Median seconds of :func:`encode`."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        encode(model, side.patch, tokens)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    name = f"{side.name} n={tokens.shape[1]}: encoding"
    report(Row(name, median, "s", n=REPEATS, spread=(min(seconds), max(seconds))))
    return median


def _against_full(
    report: Callable[[Row], None], model: Any, sides: _Sides, tokens: Tensor, seconds: float, why: str | None
) -> None:
    """Encoding and decoding at one length, beside full attention; ``tokens`` are one more than that."""
    (ours, plain), n = sides, tokens.shape[1] - 1
    faster = f"full SDPA / lm-infinite n={n}: time"
    if why is not None:
        report(Row(f"{faster} of encoding", None, "x", ">= 3.16", why=why))
        report(Row(f"{faster} per decoded token", None, "x", ">= 2.72", why=why))
        return
    full = _encoding(report, model, plain, tokens[:, :n])
    report(Row(f"{faster} of encoding", full / seconds, "x", ">= 3.16"))
    static = StaticCache(config=model.config, max_cache_len=n + N_STEPS + 2)
    medians = []
    for name, side, cache in (
        ("lm-infinite", ours, DynamicCache()),
        ("full SDPA", plain, DynamicCache()),
        ("full SDPA with a StaticCache, which copies nothing", plain, static),
    ):
        median, least, most = decode(model, side.patch, tokens, cache)
        report(Row(f"{name} n={n}: decoded token", 1000 * median, "ms", n=N_STEPS, spread=(1000 * least, 1000 * most)))
        medians.append(median)
    report(Row(f"{faster} per decoded token", medians[1] / medians[0], "x", ">= 2.72"))
    report(Row(f"{faster} per decoded token, StaticCache", medians[2] / medians[0], "x"))


def _memory_against_full(
    report: Callable[[Row], None], model: Any, sides: _Sides, tokens: Tensor, one: float, why: str | None
) -> None:
    """Peak memory at one length: read in one forward, and in chunks, where only the cache grows."""
    (ours, plain), n, device = sides, tokens.shape[1], tokens.device
    measure = f"lm-infinite / full SDPA n={n}: peak extra memory"

    def in_chunks(side: _Side) -> float:
        def run() -> None:
            with torch.inference_mode(), side.patch(model):
                read(model, tokens, chunk=CHUNK)

        return _peak(run, device)

    chunked = in_chunks(ours)
    report(Row(f"lm-infinite n={n}: peak extra memory in chunks of {CHUNK}", chunked / 2**20, "MiB"))
    if why is not None:
        report(Row(f"{measure}, ours in chunks", None, "x", "<= 0.2", why=why))
        return
    full, full_chunked = _peak(partial(encode, model, plain.patch, tokens), device), in_chunks(plain)
    report(Row(f"full SDPA n={n}: peak extra memory of one forward", full / 2**20, "MiB"))
    report(Row(f"full SDPA n={n}: peak extra memory in chunks of {CHUNK}", full_chunked / 2**20, "MiB"))
    report(Row(f"{measure}, both in chunks", chunked / full_chunked, "x", "<= 0.2"))
    report(Row(f"{measure}, ours in chunks, full in one forward", chunked / full, "x", "<= 0.2"))
    report(Row(f"{measure}, both in one forward: the activations of all tokens, alike on both sides", one / full, "x"))


def _peak(run: Callable[[], object], device: torch.device) -> float:
    return max(1.0, peak_memory(run, device))


def _slope(lengths: tuple[int, ...], values: list[float]) -> float:
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def _too_large(model: Any, n: int, device: torch.device) -> str | None:
    """Why full attention over ``n`` tokens cannot run here; None when it can."""
    config = model.config
    per_token = (
        2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers + 4 * config.intermediate_size
    )
    n_bytes = 3 * n * per_token * next(model.parameters()).element_size()  # a copy of the cache, and room
    return f"cache and activations take {n_bytes / 2**30:.0f} GiB" if n_bytes > free_memory(device) else None
