"""``bench``: measurements that write JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import console, plain

if TYPE_CHECKING:
    from ctxcompress_integrations.evaluation.rows import Row


def bench(
    name: Annotated[
        Literal["quito", "mini", "summaries", "icformer", "lm-infinite", "infor-coef", "small-world"],
        typer.Argument(help="What to measure."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=o.to_file, help="Write the rows to this file.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(envvar="CTXCOMPRESS_DATA", help="Folder of JSON-lines files, for 'mini' and 'infor-coef'."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what 'train infor-coef' wrote, TASK.safetensors, for 'infor-coef'; of what 'train "
            "small-world' wrote, for 'small-world', instead of the weights that ship."
        ),
    ] = None,
    device: o.Device = "auto",
) -> None:
    """Measure, print each row as it is known, and write JSON. Exit code 1 when a target is missed."""
    from ctxcompress_integrations.evaluation.rows import as_report, write_report

    rows: list[Row] = []
    shown = console()

    def report(row: Row) -> None:
        rows.append(row)
        value = f"{row.value:.4g} {row.unit}" if row.value is not None else f"not measured: {row.why}"
        verdict = {True: ("ok", "green"), False: ("missed", "red"), None: ("", "")}[row.ok]
        target = f" (target {row.target}) " if row.target else "  "
        shown.print(Text.assemble(plain(f"{row.measure}: "), (plain(value), "bold"), target, verdict))

    if name == "quito":
        from ctxcompress_integrations.evaluation.bench_quito import bench_quito

        bench_quito(report, device=device)
    elif name == "summaries":
        from ctxcompress_integrations.evaluation.bench_summaries import bench_summaries

        bench_summaries(report, device=device)
    elif name == "icformer":
        from ctxcompress_integrations.evaluation.bench_icformer import bench_icformer

        bench_icformer(report, device=device)
    elif name == "lm-infinite":
        from ctxcompress_integrations.evaluation.bench_lm_infinite import bench_lm_infinite

        bench_lm_infinite(report, device=device)
    elif name == "infor-coef":
        from ctxcompress_integrations.evaluation.bench_infor_coef import bench_infor_coef

        bench_infor_coef(report, data=data, weights=weights, device=device)
    elif name == "small-world":
        from ctxcompress_integrations.training.bench_small_world import bench_small_world

        bench_small_world(report, weights=weights, device=device)
    else:
        from ctxcompress_integrations.evaluation.bench_mini import bench_mini

        bench_mini(report, data=data, device=device)
    if json_file is not None:
        arguments = " ".join(["ctxcompress", *sys.argv[1:]])
        write_report(json_file, as_report(arguments, rows))
    raise typer.Exit(1 if any(row.ok is False for row in rows) else 0)
