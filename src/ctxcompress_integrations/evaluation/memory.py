"""How far memory rises while something runs, and how much is free."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """Bytes by which memory rose at its peak."""
    gc.collect()
    with _PeakMemory(device) as memory:
        run()
    return memory.extra


def keep_no_freed_memory() -> None:
    """Have glibc return every freed block of 1 MiB or more at once: what it keeps in reserve is not ours to count, and
    faster for the times before.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD


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
            ctypes.CDLL(None).malloc_trim(0)  # or the peak hides in what earlier runs left behind
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


def free_memory(device: torch.device) -> float:
    """Bytes that can be had without swapping."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    fields = Path("/proc/meminfo").read_text(encoding="ascii").split()
    return float(fields[fields.index("MemAvailable:") + 1]) * 1024
