"""What a benchmark writes: rows of measures, and the machine that they were seen on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("ctxcompress-integrations", "torch", "transformers", "faiss-cpu", "numpy", "sentencex")


@dataclass(frozen=True, slots=True)
class Row:
    """One measure.

    Attributes:
        value: None when it could not be measured; ``why`` then says why.
        target: bound as text, such as ">= 2.5"; None for a figure without a target.
        n: measurements behind the value; ``spread`` their smallest and largest, or a 95 % interval where ``unit`` or
            the measure says so.
        labels: what the row is about, for machines: data set, method, budget.
    """

    measure: str
    value: float | None
    unit: str
    target: str | None = None
    n: int = 1
    spread: tuple[float, float] | None = None
    why: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        """The comparison of value with target; None without either."""
        if self.value is None or self.target is None:
            return None
        sign, bound = self.target.split()
        return {">=": self.value >= float(bound), "<=": self.value <= float(bound), "<": self.value < float(bound)}[
            sign
        ]


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU and versions of what matters."""
    gpu = None
    try:
        import torch

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name()
    except ImportError:
        pass
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "gpu": gpu,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def as_report(command: str, rows: Sequence[Row]) -> dict[str, Any]:
    """``{"command", "machine", "rows"}`` as plain JSON values."""
    return {"command": command, "machine": machine(), "rows": [asdict(row) | {"ok": row.ok} for row in rows]}


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON, one row a line, so that a new measurement changes as many lines as rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in report["rows"])
    head = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in report.items() if key != "rows"]
    body = ",\n".join([*head, f' "rows": [\n{rows}\n ]'])
    path.write_text(f"{{\n{body}\n}}\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    extensions = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name} ({', '.join(extensions)})" if extensions else name
