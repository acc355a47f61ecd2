"""The losses and dev curves of a training run, as a plot."""

from __future__ import annotations

import json
from pathlib import Path

from ctxcompress_integrations._optional import require


def plot_curves(path: Path) -> Path:
    """Draw what a run wrote as ``*.curves.json`` into an SVG beside it, and return its path."""
    require("matplotlib", extra="eval")
    from matplotlib.figure import Figure

    curves = json.loads(path.read_text(encoding="utf-8"))
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, dev = figure.subplots(1, 2)
    for name, points in _lines(curves["losses"]).items():
        losses.plot(*zip(*points, strict=True), label=name)
    for name, points in _lines(curves["dev"]).items():
        dev.plot(*zip(*points, strict=True), "o-", label=name)
    losses.set(xlabel="step", ylabel="loss", title="training")
    dev.set(xlabel="step", ylabel="share of answers", title="dev")
    for axes in (losses, dev):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    out = path.with_suffix(".svg")
    figure.savefig(out, metadata={"Date": None})
    return out


def _lines(points: list[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by name; a name may come and go, as a stage has it."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for step, values in points:
        for name, value in values.items():
            lines.setdefault(name.replace("_", " "), []).append((step, value))
    return lines
