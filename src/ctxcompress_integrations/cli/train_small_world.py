"""``train small-world``: the small reader that ships, and the summarizers that write for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxcompress_integrations.cli.screen import console, say

if TYPE_CHECKING:
    from ctxcompress_integrations.training.loop import Progress


def small_world(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for weights, curves and checkpoints.")],
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Make a small reader and its summarizers, from MiniLM and documents that are invented on the way. Two hours
    on two CPU cores. An interrupted run goes on.
    """
    from ctxcompress_integrations._optional import check
    from ctxcompress_integrations._progress import progress_bar
    from ctxcompress_integrations.training.curves import plot_curves
    from ctxcompress_integrations.training.small_world import SmallWorld
    from ctxcompress_integrations.training.small_world_plan import Plan

    check("matplotlib", extra="eval")
    out.mkdir(parents=True, exist_ok=True)
    plan, shown = Plan(seed=seed), console()
    with progress_bar(shown) as bar:
        tasks = {lesson: bar.add_task(lesson, total=plan.recipe(lesson).steps) for lesson in plan.lessons}

        def report(lesson: str, seen: Progress) -> None:
            bar.update(tasks[lesson], completed=seen.step)
            if seen.dev and seen.dev[-1][0] == seen.step:
                points = {**seen.losses[-1][1], **seen.dev[-1][1]}
                said = ", ".join(f"{name} {value:.3f}" for name, value in points.items())
                shown.print(f"{lesson}, step {seen.step}: {said}")

        SmallWorld(out, plan, report=report).train()
    for curves in sorted(out.glob("*.curves.json")):
        plot_curves(curves)
    say(f"wrote {', '.join(path.name for path in sorted(out.glob('small-world-*.safetensors')))}")
