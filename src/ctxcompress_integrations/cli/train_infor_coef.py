"""``train infor-coef``: a small classifier that is pruned and drops tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import console, say


def infor_coef(
    task: Annotated[str, typer.Option(help="Files TASK_train*.jsonl and TASK_dev*.jsonl: qnli_like, wellformed ...")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="Weights file to write; stages and curves go beside it.")],
    data: Annotated[Path, typer.Option(envvar="CTXCOMPRESS_DATA", exists=True, file_okay=False, help="Their folder.")],
    base: Annotated[str, typer.Option(help="The encoder to fine-tune, a BERT.")] = "mini",
    dense: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A fine-tuned model of another run, to start from.")
    ] = None,
    size: Annotated[float, typer.Option(help="Weights that static pruning leaves; 1 for none.")] = 0.6,
    tokens: Annotated[float, typer.Option(help="Tokens that samplers leave, about; 1 for no samplers.")] = 0.6,
    sampled: Annotated[str, typer.Option(help="Layers with a sampler before them, comma-separated.")] = "1,2,3,4,5",
    steps: Annotated[
        str, typer.Option(help="Steps of the stages dense, static, folded, dynamic, comma-separated.")
    ] = "600,600,400,400",
    batch: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 32,
    bf16: Annotated[bool, typer.Option(help="Train in mixed precision, where the processor is faster in it.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each file; all if none.")] = None,
    device: o.Device = "auto",
) -> None:
    """Train, or go on where an interrupted run with the same arguments stopped."""
    from ctxcompress_integrations._progress import progress_bar
    from ctxcompress_integrations.evaluation.classification import load_labelled
    from ctxcompress_integrations.hf import coef_weights
    from ctxcompress_integrations.hf.load import load_tokenizer
    from ctxcompress_integrations.training.infor_coef import Recipe, Run, train_infor_coef
    from ctxcompress_integrations.training.loop import Progress

    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}", param_hint="--out")
    n_steps = o.numbers(steps, "--steps")
    if len(n_steps) != 4 or min(n_steps) < 1:
        raise typer.BadParameter(f"four numbers from 1 on are needed, got {steps!r}", param_hint="--steps")
    recipe = Recipe(
        base=base,
        size=size,
        tokens=tokens,
        sampled=o.numbers(sampled, "--sampled"),
        dense_steps=n_steps[0],
        static_steps=n_steps[1],
        folded_steps=n_steps[2],
        dynamic_steps=n_steps[3],
        batch_size=batch,
        bf16=bf16,
        seed=seed,
    )
    tokenizer = load_tokenizer(base)
    rows, dev = (load_labelled(data, f"{task}_{part}", tokenizer, limit=limit) for part in ("train", "dev"))
    say(f"{task}: {len(rows)} rows, {len(dev)} dev rows")
    shown = console()
    with progress_bar(shown) as bar:
        bars: dict[str, TaskID] = {}

        def report(stage: str, state: Progress, n_steps: int) -> None:
            if stage not in bars:
                bars[stage] = bar.add_task(stage, total=n_steps)
            bar.update(bars[stage], completed=state.step)
            if state.dev and state.dev[-1][0] == state.step:
                points = ", ".join(f"{name} {value:.3f}" for name, value in state.dev[-1][1].items())
                losses = " ".join(f"{value:.4f}" for value in state.losses[-1][1].values())
                shown.print(f"{stage} {state.step}: {points} (losses {losses})")

        run = Run(rows, dev, out, recipe, device=device, report=report)
        train_infor_coef(run, dense=coef_weights.load(dense)[0] if dense is not None else None)
    figures = coef_weights.load(out)[2]["dev"]
    say(f"wrote {out}: accuracy {figures['accuracy']:.3f}, {figures['times_fewer']:.1f}x fewer FLOPs than BERT-base")
