"""``train mini`` and ``train mini-fast``: make the weights of the default scorer, and of its fast form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import console, plain, say
from ctxcompress_integrations.cli.train import report_problems

Out = Annotated[Path, typer.Option(dir_okay=False, help="Weights file to write; the curves go beside it.")]
Files = Annotated[
    list[Path] | None,
    typer.Argument(help="JSON-lines files to train on, instead of the standard ones in --data."),
]
Data = Annotated[
    Path | None, typer.Option(envvar="CTXCOMPRESS_DATA", help="Folder of the standard training and dev sets.")
]
Dev = Annotated[str, typer.Option(help="Comma-separated sets or files for the dev curve.")]
Calibration = Annotated[str, typer.Option(help="Comma-separated sets or files with which the thresholds are set.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Examples per training set; all if none.")]


def mini(
    out: Out,
    files: Files = None,
    data: Data = None,
    dev: Dev = "xquad-en,nq20,musique",
    calibration: Calibration = "squad2",
    base: Annotated[str, typer.Option(help="The encoder to fine-tune, a BERT.")] = "mini",
    layers: Annotated[str, typer.Option(help="Which of its layers to keep, comma-separated.")] = "0,1,2,3,4,5",
    dims: Annotated[int, typer.Option(min=1, help="Width of the vectors that are compared and kept.")] = 128,
    frozen: Annotated[int, typer.Option(min=0, help="How many of them, from the first, stay as they are.")] = 2,
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
    limit: Limit = None,
    device: o.Device = "auto",
) -> None:
    """Train, or go on where an interrupted run with the same arguments stopped. About an hour on two CPU cores."""
    from ctxcompress_integrations.training.mini import Recipe, train_mini

    chosen = o.numbers(layers, "--layers")
    if not chosen or list(chosen) != sorted(set(chosen)):
        raise typer.BadParameter(f"layers are needed in order, each once, got {layers!r}", param_hint="--layers")
    given = _read(out, files, data, limit=limit, dev=dev, calibration=calibration)
    recipe = Recipe(
        base=base, layers=chosen, n_frozen=frozen, n_dims=dims, steps=steps, seed=seed, eval_every=min(300, steps)
    )
    _train(partial(train_mini, device=device, **given), out, recipe)


def mini_fast(
    out: Out,
    files: Files = None,
    data: Data = None,
    dev: Dev = "xquad-en,nq20,musique",
    calibration: Calibration = "squad2",
    base: Annotated[str, typer.Option(help="The encoder that the followed weights were trained on.")] = "mini",
    weights: Annotated[Path | None, typer.Option(help="Weights to follow; those that ship if none.")] = None,
    heads: Annotated[int, typer.Option(min=1, help="Heads that every layer keeps.")] = 7,
    inner: Annotated[int, typer.Option(min=1, help="Feed-forward neurons that every layer keeps.")] = 320,
    steps: Annotated[int, typer.Option(min=1)] = 8000,
    seed: Annotated[int, typer.Option()] = 0,
    limit: Limit = None,
    device: o.Device = "auto",
) -> None:
    """Cut heads and neurons out of trained weights and teach what is left to score as they do, or go on where an
    interrupted run with the same arguments stopped. About 100 minutes on two CPU cores.
    """
    from ctxcompress_integrations.training.mini_fast import Recipe, train_mini_fast

    given = _read(out, files, data, limit=limit, dev=dev, calibration=calibration)
    recipe = Recipe(base=base, n_heads=heads, n_inner=inner, steps=steps, seed=seed, eval_every=min(500, steps))
    _train(partial(train_mini_fast, weights=weights, device=device, **given), out, recipe)


def _read(
    out: Path, files: list[Path] | None, data: Path | None, *, limit: int | None, dev: str, calibration: str
) -> dict[str, Any]:
    """What both trainings take of data; says what was read. What the curves' plot needs is asked for first."""
    from ctxcompress_integrations._optional import check
    from ctxcompress_integrations.evaluation.sets import load_set, load_training

    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}", param_hint="--out")
    check("matplotlib", extra="eval")
    sets = load_training(files or None, data, limit=limit)
    for dataset in sets:
        report_problems(dataset)
        skipped = f", {len(dataset.problems)} rows skipped" if dataset.problems else ""
        say(f"{dataset.name}: {len(dataset.examples)} questions{skipped}")
    return {
        "examples": [example for dataset in sets for example in dataset.examples],
        "dev": [load_set(name, data, limit=100) for name in dev.split(",") if name],
        "calibration": [load_set(name, data, limit=1200) for name in calibration.split(",") if name],
        "sources": [dataset.name for dataset in sets],
    }


def _train(train: Callable[..., Any], out: Path, recipe: Any) -> None:
    """Under a bar with the time left; writes the curves' plot, too."""
    from ctxcompress_integrations._progress import progress_bar
    from ctxcompress_integrations.training.curves import plot_curves
    from ctxcompress_integrations.training.loop import Progress as State

    shown = console()
    with progress_bar(shown) as bar:
        task = bar.add_task("preparing", total=recipe.steps)

        def report(state: State) -> None:
            latest = f"loss {sum(state.losses[-1][1].values()):.2f}" if state.losses else "training"
            bar.update(task, completed=state.step, description=latest)
            if state.dev and state.dev[-1][0] == state.step:
                points = ", ".join(f"{name} {value:.3f}" for name, value in state.dev[-1][1].items())
                shown.print(plain(f"step {state.step}: {points}"))

        train(out=out, recipe=recipe, report=report)
    plot = plot_curves(out.with_suffix(".curves.json"))
    say(f"wrote {out} and {plot}")
