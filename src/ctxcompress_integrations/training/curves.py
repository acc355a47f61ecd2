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
    steps = [step for step, _ in curves["losses"]]
    for i, name in enumerate(("among all sentences", "in its passage", "answerable", "answer tokens", "drift")):
        losses.plot(steps, [values[i] for _, values in curves["losses"]], label=name)
    for name in curves["dev"][0][1] if curves["dev"] else ():
        dev.plot([step for step, _ in curves["dev"]], [values[name] for _, values in curves["dev"]], "o-", label=name)
    losses.set(xlabel="step", ylabel="loss", title="training")
    dev.set(xlabel="step", ylabel="answer kept", title="dev")
    for axes in (losses, dev):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    out = path.with_suffix(".svg")
    figure.savefig(out, metadata={"Date": None})
    return out
