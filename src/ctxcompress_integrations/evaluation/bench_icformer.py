"""``ctxcompress bench icformer``: what compressing a passage costs, IC-Former against ICAE, same reader and ratio.

A reader of Llama-2-7B's shape with random weights; 512 tokens become 128 vectors, as in IC-Former's paper
(arXiv:2406.13618), which gives 1/32 of the FLOPs and 68 to 112 times the speed. Values differ from trained models',
times and FLOPs do not. Multiplications of matrices and attention are counted, as everybody counts them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ctxcompress_integrations.evaluation.random_models import LLAMA_7B, shared_llama, word_tokenizer
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.icformer import IcFormer

N_TOKENS, N_VECTORS = 512, 128
LENGTHS = (512, 1024, 2048, 4096)
N_HEADS, N_INNER = 32, 11008
ON_GPU = "ICAE / IC-Former on a GPU, 8 passages of 2048 tokens: time"


def bench_icformer(report: Callable[[Row], None], *, device: str = "auto") -> None:
    """Measure and hand each row to ``report`` as soon as it is known."""
    target = resolve_device(device)
    reader, tokenizer = shared_llama(LLAMA_7B, target), word_tokenizer()
    icae = Icae.untrained(reader, tokenizer, n_memory=N_VECTORS, tokens_per_slot=N_TOKENS // N_VECTORS, has_bos=False)
    icformer = IcFormer.untrained(
        reader, tokenizer, n_digests=N_VECTORS, chunk_tokens=N_TOKENS, n_heads=N_HEADS, n_inner=N_INNER
    )
    for summarizer in (icae, icformer):
        summarizer.module.to(device=target, dtype=torch.bfloat16).requires_grad_(False).eval()
    passages = [_pieces(n) for n in LENGTHS]
    where = f"{N_TOKENS} -> {N_VECTORS}, Llama-2-7B's shape, bf16, {target.type}"
    flops = {}
    seconds = {}
    for name, summarizer, n_runs in (("ICAE", icae, 1), ("IC-Former", icformer, 5)):
        flops[name] = _flops(summarizer, passages[0])  # warms up as well
        seconds[name] = _seconds(summarizer, passages[0], n_runs, target)
        report(Row(f"{name} {where}: FLOPs", flops[name], "FLOPs"))
        spread = (min(seconds[name]), max(seconds[name]))
        report(Row(f"{name} {where}: time", statistics.median(seconds[name]), "s", n=n_runs, spread=spread))
    report(Row(f"IC-Former / ICAE {where}: FLOPs", flops["IC-Former"] / flops["ICAE"], "x", "<= 0.05"))
    ratio = statistics.median(seconds["ICAE"]) / statistics.median(seconds["IC-Former"])
    report(Row(f"ICAE / IC-Former {where}: time", ratio, "x", ">= 10"))
    counted = [_flops(icformer, pieces) for pieces in passages]
    timed = [statistics.median(_seconds(icformer, pieces, 3, target)) for pieces in passages]
    for n, took in zip(LENGTHS, timed, strict=True):
        report(Row(f"IC-Former, {n} tokens: time", took, "s", n=3))
    for what, values in (("FLOPs", counted), ("time", timed)):
        exponent = float(np.polyfit(np.log(LENGTHS), np.log(values), 1)[0])
        report(Row(f"IC-Former: growth exponent of {what} over n", exponent, "log-log slope", "<= 1.1", len(LENGTHS)))
    if target.type != "cuda":
        report(Row(ON_GPU, None, "x", why="no GPU here"))
        return
    batch = _pieces(2048) * 8
    of_icae, of_icformer = (statistics.median(_seconds(s, batch, 3, target)) for s in (icae, icformer))
    report(Row(ON_GPU, of_icae / of_icformer, "x", n=3))


def _pieces(n_tokens: int) -> list[list[list[int]]]:
    """Token ids of one passage, in pieces of one segment of ``N_TOKENS``."""
    drawn = torch.randint(3, 30000, (n_tokens,), generator=torch.Generator().manual_seed(n_tokens)).tolist()
    return [[drawn[start : start + N_TOKENS]] for start in range(0, n_tokens, N_TOKENS)]


@torch.no_grad()
def _flops(summarizer: Any, pieces: list[list[list[int]]]) -> float:
    """Multiply-adds of matrices and attention, each as two; the counter does not know a CPU's fused attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        summarizer.encode(pieces)
    return float(counter.get_total_flops())


@torch.no_grad()
def _seconds(summarizer: Any, pieces: list[list[list[int]]], n_runs: int, device: torch.device) -> list[float]:
    found = []
    for _ in range(n_runs):
        started = time.perf_counter()
        summarizer.encode(pieces)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found
