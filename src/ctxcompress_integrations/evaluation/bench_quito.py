"""``ctxcompress bench quito``: the trigger's row against the textbook form, same weights, same tokens.

The textbook form is what the paper's released code does: eager attention, ``output_attentions=True``, every map of
every layer kept, all logits computed, one row of the last map used. The model has Qwen2-0.5B's shape and random
weights: attention values differ from the trained model's, times and bytes do not.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.attention import eager_attention, trigger_rows
from ctxcompress_integrations.hf.load import random_decoder, resolve_device

SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
CPU_LENGTHS = (512, 1024, 2048, 4096)
GPU_LENGTHS = (2048, 8192, 16384, 32768)
TARGET_LENGTH = 2048


def bench_quito(report: Callable[[Row], None], *, device: str = "auto") -> None:
    """Measure and hand each row to ``report`` as soon as it is known."""
    target = resolve_device(device)
    lengths = GPU_LENGTHS if target.type == "cuda" else CPU_LENGTHS
    model = random_decoder("qwen2", SHAPE, seed=0).to(target)
    generator = torch.Generator().manual_seed(0)
    tokens = {n: torch.randint(0, SHAPE["vocab_size"], (n,), generator=generator).tolist() for n in lengths}
    exact: dict[int, torch.Tensor] = {}
    textbook_seconds: dict[int, float] = {}
    textbook_bytes: dict[int, float] = {}
    for dtype in ("float32", "bfloat16"):
        model = model.to(getattr(torch, dtype))
        memory: dict[int, float] = {}
        trigger_rows(model, [tokens[lengths[0]]], [-1])  # warm-up: thread pools, kernels
        for n in lengths:
            name = f"{dtype} n={n}"
            n_runs = 5 if n <= 1024 else 3
            seconds, memory[n], row = _measure(partial(quito, model, tokens[n]), n_runs, target)
            report(_time_row(f"quito {name}", seconds))
            report(Row(f"quito {name}: peak extra memory", memory[n] / 2**20, "MiB"))
            if dtype == "float32":
                for text in _textbook(model, tokens[n], target, report, name):
                    textbook_seconds[n], textbook_bytes[n], exact[n] = text
            if n in exact:
                difference = float((row - exact[n]).abs().max())
                report(Row(f"quito {name}: largest difference of a score", difference, "attention weight"))
                is_target = n == TARGET_LENGTH and target.type == "cpu"
                bound = (">= 2.5" if dtype == "float32" else ">= 6") if is_target else None
                speedup = textbook_seconds[n] / statistics.median(seconds)
                report(Row(f"textbook float32 / quito {name}: time", speedup, "x", bound))
                ratio = memory[n] / textbook_bytes[n]
                report(Row(f"quito / textbook {name}: peak extra memory", ratio, "x", "<= 0.05" if is_target else None))
        exponent = float(np.polyfit(np.log(lengths), np.log([memory[n] for n in lengths]), 1)[0])
        report(Row(f"quito {dtype}: memory growth exponent over n", exponent, "log-log slope", "<= 1.1", len(lengths)))


def quito(model: Any, tokens: list[int]) -> torch.Tensor:
    """The last layer's trigger row, mean over heads, float32 ``[n]``."""
    return trigger_rows(model, [tokens], [-1])[-1][0].mean(dim=0)


@torch.no_grad()
def textbook(model: Any, tokens: list[int]) -> torch.Tensor:
    """The same, by the definition."""
    with eager_attention(model):
        ids = torch.tensor([tokens], device=model.get_input_embeddings().weight.device)
        maps = model(input_ids=ids, use_cache=False, output_attentions=True).attentions
        row: torch.Tensor = maps[-1][0, :, -1].float().mean(dim=0)
        return row


def _textbook(
    model: Any, tokens: list[int], device: torch.device, report: Callable[[Row], None], name: str
) -> Iterator[tuple[float, float, torch.Tensor]]:
    n = len(tokens)
    n_map_bytes = SHAPE["num_hidden_layers"] * SHAPE["num_attention_heads"] * n * n * 4
    if 1.5 * n_map_bytes > _free_memory(device):
        why = f"the maps alone take {n_map_bytes / 2**30:.0f} GiB"
        report(Row(f"textbook {name}", None, "s", why=why))
        return
    seconds, peak, row = _measure(partial(textbook, model, tokens), 2 if n >= TARGET_LENGTH else 3, device)
    report(_time_row(f"textbook {name}", seconds))
    report(Row(f"textbook {name}: peak extra memory", peak / 2**20, "MiB"))
    yield statistics.median(seconds), peak, row


def _measure(
    run: Callable[[], torch.Tensor], n_runs: int, device: torch.device
) -> tuple[list[float], float, torch.Tensor]:
    """Seconds of each run, bytes by which memory rose at its peak, and what the run returned."""
    seconds = []
    peak = 0.0
    for _ in range(n_runs):
        gc.collect()
        with _PeakMemory(device) as memory:
            started = time.perf_counter()
            row = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        peak = max(peak, memory.extra)
    return seconds, peak, row.cpu()


class _PeakMemory:
    """Bytes that memory rose by inside the block: CUDA's own counter, or resident memory sampled every millisecond."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda, self.extra = device.type == "cuda", 0.0

    def __enter__(self) -> _PeakMemory:
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, or the next peak hides in it
        self._before, self._peak, self._stop = _resident(), _resident(), threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_cuda:
            self.extra = float(torch.cuda.max_memory_allocated() - self._before)
            return
        self._stop.set()
        self._sampler.join()
        self.extra = float(self._peak - self._before)

    def _sample(self) -> None:
        while not self._stop.wait(0.001):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def _free_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    fields = Path("/proc/meminfo").read_text(encoding="ascii").split()
    return float(fields[fields.index("MemAvailable:") + 1]) * 1024


def _time_row(measure: str, seconds: list[float]) -> Row:
    return Row(measure, statistics.median(seconds), "s", n=len(seconds), spread=(min(seconds), max(seconds)))
