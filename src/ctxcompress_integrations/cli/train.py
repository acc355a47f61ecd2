"""``train``: the commands that make weights, and the first of them, ``train probe``."""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import say

if TYPE_CHECKING:
    from ctxcompress_integrations.evaluation.datasets import Dataset, Example
    from ctxcompress_integrations.training.probe import ProbeFigures

N_SHOWN = 5
app = typer.Typer(
    help="Make weights: of scorers (probe, mini, mini-fast), of summarizers (soft), of adapters that read summaries "
    "(lloco), of a small classifier (infor-coef), and of the small reader with its summarizers (small-world).",
    no_args_is_help=True,
)


@app.command("probe")
def probe(
    model: Annotated[str, typer.Option(help="Decoder LM, by hub name or folder.")],
    data: Annotated[
        list[Path],
        typer.Option(exists=True, dir_okay=False, help="JSON lines of {question, context, answers}; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="Weights file to write.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to use, evenly spread; all if none.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which passages are held out.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="'plain', or a text with {passage} and {query}, instead of the chat template.")
    ] = None,
    device: o.Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=o.to_file, help="Write the figures to this file.")
    ] = None,
) -> None:
    """Learn which attention heads of a decoder LM point at answers: the weights of the method 'probe'.

    Nothing is written before the end.
    """
    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}", param_hint="--out")
    rows, n_skipped = _rows(data)
    if limit is not None and limit < len(rows):
        rows = [rows[i * len(rows) // limit] for i in range(limit)]
    from ctxcompress_integrations.hf.load import load_decoder
    from ctxcompress_integrations.training.probe import train_probe

    lm, tokenizer = load_decoder(model, device=device, dtype=dtype)
    is_shown = sys.stderr.isatty()
    head, figures = train_probe(lm, tokenizer, rows, base=model, seed=seed, template=template, progress=is_shown)
    head.save(out)
    typer.echo(
        f"wrote {out}: {len(head.weight)} heads, C {figures.strength:g}, {figures.n_questions} questions\n"
        f"{figures.n_held_out} held-out questions: best sentence answers in {figures.top1:.1%} (the last layer's raw "
        f"attention: {figures.top1_raw:.1%}), AUC {figures.auc:.3f}"
    )
    if json_file is not None:
        _write_figures(json_file, figures, n_skipped)


def _rows(files: list[Path]) -> tuple[list[Example], int]:
    """The usable rows of all files, and the number of those that are not; the first of these are shown."""
    from ctxcompress_integrations.evaluation.datasets import load_dataset

    rows: list[Example] = []
    n_skipped = 0
    for file in files:
        dataset = load_dataset(file)
        report_problems(dataset)
        rows += dataset.examples
        n_skipped += len(dataset.problems)
    return rows, n_skipped


def report_problems(dataset: Dataset) -> None:
    """The first rows of a file that could not be used, with their lines, on standard error."""
    for problem in dataset.problems[:N_SHOWN]:
        say(f"{dataset.name}:{problem.line} skipped: {problem.why}", err=True)
    if len(dataset.problems) > N_SHOWN:
        say(f"{dataset.name}: {len(dataset.problems)} rows skipped in all", err=True)


def _write_figures(path: Path, figures: ProbeFigures, n_skipped: int) -> None:
    from ctxcompress_integrations.evaluation.rows import Row, as_report, write_report

    n_questions, n_left_out, strength, n_held_out, top1, top1_raw, auc = astuple(figures)
    rows = [
        Row("best sentence answers, probe", top1, "share", n=n_held_out),
        Row("best sentence answers, raw attention of the last layer", top1_raw, "share", n=n_held_out),
        Row("AUC of sentences, probe", auc, "probability", n=n_held_out),
        Row("C", strength, "inverse strength"),
        Row("questions used", n_questions, "questions"),
        Row("questions left out", n_left_out, "questions"),
        Row("rows skipped", n_skipped, "rows"),
    ]
    write_report(path, as_report(" ".join(["ctxcompress", *sys.argv[1:]]), rows))
