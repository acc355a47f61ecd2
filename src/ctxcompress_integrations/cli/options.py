"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ctxcompress_integrations.options import Unit


def _threshold(value: str) -> float | str:
    return value if value == "auto" else float(value)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers with commas between them; a usage error that names the option for anything else."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise typer.BadParameter(f"whole numbers are needed, got {text!r}", param_hint=option) from error


def to_file(path: Path | None) -> Path | None:
    """A file that is written in the end; what would hinder it is said before the work begins."""
    if path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder: name a file in it")
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}: make it, or name another")
    return path


IndexDir = Annotated[Path, typer.Option("--index", help="The index directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
KeepRatio = Annotated[float | None, typer.Option(help="Kept / input tokens, in (0, 1]. 0.25 when no limit is given.")]
TokenBudget = Annotated[int | None, typer.Option(help="Tokens that the output never exceeds.")]
Threshold = Annotated[
    Any, typer.Option(parser=_threshold, metavar="NUMBER|auto", help="Keep every unit whose score reaches this.")
]
UnitName = Annotated[Unit, typer.Option("--unit", help="What is kept or cut as a whole.")]
Method = Annotated[str, typer.Option(help="mini, quito, quito_x, probe, lexical or a registered scorer.")]
Model = Annotated[str | None, typer.Option(help="Model name or folder for the method.")]
Weights = Annotated[str | None, typer.Option(help="Trained weights: mini's own if none; probe needs a file.")]
Fast = Annotated[bool, typer.Option("--fast", help="mini's thin encoder: nearly twice as fast, a little less sure.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda ...")]
