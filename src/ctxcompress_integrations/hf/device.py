"""Device and dtype, decided once for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import ModelLoadError

DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve_device(device: str) -> Any:
    """``torch.device`` for a name; "auto" takes a GPU when there is one.

    Raises:
        ModelLoadError: the device does not exist here.
    """
    torch = require("torch", extra="torch")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:  # torch says "not compiled with CUDA" by assertion
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ModelLoadError(f"there is no device {device!r} here ({reason}); use device='auto'") from error
    return found


def resolve_dtype(dtype: str, device: Any) -> Any:
    """``torch.dtype`` for a name; "auto" takes bf16 where the device computes in it, fp32 elsewhere.

    Raises:
        ValueError: unknown name.
    """
    torch = require("torch", extra="torch")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype != "auto":
        return getattr(torch, dtype)
    has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if has_bf16 else torch.float32


def cpu_has_bf16() -> bool:
    """True when the processor multiplies bf16 natively (AVX512-BF16, AMX, Arm BF16), not only emulates it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))
