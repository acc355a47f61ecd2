"""``ctxcompress bench quito``: the trigger's row against the textbook form, same weights, same tokens.

The textbook form is what the paper's released code does: eager attention, ``output_attentions=True``, every map of
every layer kept, all logits computed, one row of the last map used. The model has Qwen2-0.5B's shape and random
weights: attention values differ from the trained model's, times and bytes do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch

from ctxcompress_integrations.evaluation.memory import free_memory, keep_no_freed_memory, peak_memory
from ctxcompress_integrations.evaluation.random_models import random_decoder
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.attention import eager_attention, trigger_rows
from ctxcompress_integrations.hf.device import resolve_device

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
    """Measure and hand each row to ``report`` as soon as it is known: first all times, then all memory."""
    target = resolve_device(device)
    lengths = GPU_LENGTHS if target.type == "cuda" else CPU_LENGTHS
    exact = random_decoder("qwen2", SHAPE, seed=0).to(target)
    models = {"float32": exact, "bfloat16": deepcopy(exact).to(torch.bfloat16)}
    generator = torch.Generator().manual_seed(0)
    tokens = {n: torch.randint(0, SHAPE["vocab_size"], (n,), generator=generator).tolist() for n in lengths}
    for model in models.values():
        trigger_rows(model, [tokens[lengths[0]]], [-1])  # warm-up: thread pools, kernels
    for n in lengths:
        _times(report, models, tokens[n], target)
    keep_no_freed_memory()
    for dtype, model in models.items():
        peaks = [max(1.0, peak_memory(partial(quito, model, tokens[n]), target)) for n in lengths]
        for n, peak in zip(lengths, peaks, strict=True):
            report(Row(f"quito {dtype} n={n}: peak extra memory", peak / 2**20, "MiB"))
        exponent = float(np.polyfit(np.log(lengths), np.log(peaks), 1)[0])
        report(Row(f"quito {dtype}: memory growth exponent over n", exponent, "log-log slope", "<= 1.1", len(lengths)))
        if dtype == "float32":
            for n, peak in zip(lengths, peaks, strict=True):
                if _too_large(n, target) is None:
                    most = max(1.0, peak_memory(partial(textbook, exact, tokens[n]), target))
                    report(Row(f"textbook float32 n={n}: peak extra memory", most / 2**20, "MiB"))
                    bound = "<= 0.05" if n == TARGET_LENGTH else None
                    report(Row(f"quito / textbook float32 n={n}: peak extra memory", peak / most, "x", bound))


def _times(report: Callable[[Row], None], models: dict[str, Any], tokens: list[int], device: torch.device) -> None:
    """Seconds of every form over the same tokens, the forms taking turns, and how far their scores are apart."""
    n = len(tokens)
    forms = {f"quito {dtype}": partial(quito, model, tokens) for dtype, model in models.items()}
    why = _too_large(n, device)
    if why is None:
        forms["textbook float32"] = partial(textbook, models["float32"], tokens)
    else:
        report(Row(f"textbook float32 n={n}", None, "s", why=why))
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    rows = {}
    for _ in range(3 if why is None else 1):
        for name, run in forms.items():
            started = time.perf_counter()
            rows[name] = run().cpu()
            seconds[name].append(time.perf_counter() - started)
    for name, measured in seconds.items():
        median, spread = statistics.median(measured), (min(measured), max(measured))
        report(Row(f"{name} n={n}", median, "s", n=len(measured), spread=spread))
    for name in forms if why is None else ():
        if name != "textbook float32":
            speedup = statistics.median(seconds["textbook float32"]) / statistics.median(seconds[name])
            is_target = n == TARGET_LENGTH and device.type == "cpu"
            bound = (">= 2.5" if name.endswith("float32") else ">= 6") if is_target else None
            report(Row(f"textbook float32 / {name} n={n}: time", speedup, "x", bound))
            difference = float((rows[name] - rows["textbook float32"]).abs().max())
            report(Row(f"{name} n={n}: largest difference of a score", difference, "attention weight"))


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


def _too_large(n: int, device: torch.device) -> str | None:
    """Why the textbook form cannot run over ``n`` tokens here; None when it can."""
    n_bytes = SHAPE["num_hidden_layers"] * SHAPE["num_attention_heads"] * n * n * 4
    return f"the maps alone take {n_bytes / 2**30:.0f} GiB" if 1.5 * n_bytes > free_memory(device) else None
