"""``eval``: all methods over the same passages under the same budget."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import say

if TYPE_CHECKING:
    from ctxcompress_integrations.evaluation.rows import Row


def evaluate(
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sets by name (xquad-en, squad2, nq20 ...) or JSON-lines files; the standard ones if none."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(envvar="CTXCOMPRESS_DATA", help="Folder of the named sets.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated; the first is compared with the others. All that run if none.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Decoder LM for quito, probe, selective_context and longllmlingua.")
    ] = None,
    seq2seq: Annotated[str | None, typer.Option(help="Encoder-decoder LM for quito_x.")] = None,
    token_classifier: Annotated[str | None, typer.Option(help="LLMLingua-2-style checkpoint.")] = None,
    provence: Annotated[str | None, typer.Option(help="Provence-style checkpoint.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the provence checkpoint run its own code.")] = False,
    weights: Annotated[str | None, typer.Option(help="Trained weights for mini instead of the shipped ones.")] = None,
    probe: Annotated[str | None, typer.Option(help="Trained weights for probe.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens are counted, for all methods.")] = "mini",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per set, evenly spread; all if none.")] = None,
    titles: Annotated[bool, typer.Option(help="Let methods read the passages' titles.")] = True,
    times: Annotated[bool, typer.Option(help="Time whole calls, too; leave it out on a busy machine.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=o.to_file, help="Write all rows to this file.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write a report page with plots into this folder.")
    ] = None,
    device: o.Device = "auto",
) -> None:
    """Measure what every method keeps of the answers, and write tables, JSON and a page. Exit code 1 when a target is
    missed.
    """
    from ctxcompress_integrations._optional import check
    from ctxcompress_integrations.evaluation import page as pages
    from ctxcompress_integrations.evaluation.evaluate import Plan, evaluate
    from ctxcompress_integrations.evaluation.methods import NEEDS_DECODER, NEEDS_NAME, STANDARD, MethodSettings
    from ctxcompress_integrations.evaluation.rows import as_report, write_report
    from ctxcompress_integrations.evaluation.sets import STANDARD as STANDARD_SETS
    from ctxcompress_integrations.hf.load import load_tokenizer

    if page is not None:
        check("matplotlib", extra="eval")  # now, not after hours
    settings = MethodSettings(
        decoder=model,
        seq2seq=seq2seq,
        token_classifier=token_classifier,
        provence=provence,
        weights=weights,
        probe=probe,
        trust_remote_code=trust_remote_code,
        device=device,
    )
    chosen = [*STANDARD, *NEEDS_DECODER, *NEEDS_NAME] if methods is None else _names(methods)
    plan = Plan(sets or STANDARD_SETS, chosen, settings, data=data, limit=limit, titles=titles, times=times)
    console = Console(emoji=False)
    rows = evaluate(plan, load_tokenizer(tokenizer), console)
    report = as_report(" ".join(["ctxcompress", *sys.argv[1:]]), rows)
    if json_file is not None:
        write_report(json_file, report)
    if page is not None:
        pages.write_page(report, page)
    console.print(pages.tables(report["rows"]))
    _show_verdicts(rows)
    raise typer.Exit(1 if any(row.ok is False for row in rows) else 0)


def _names(methods: str) -> list[str]:
    """The names of a comma-separated list, each once."""
    from ctxcompress_integrations.evaluation.methods import available_methods

    names = list(dict.fromkeys(name.strip() for name in methods.split(",")))
    known = available_methods()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(
            f"there is no method {', '.join(map(repr, unknown))}; known names: {', '.join(known)}",
            param_hint="--methods",
        )
    return names


def _show_verdicts(rows: Sequence[Row]) -> None:
    """What could not be measured as asked, and why; and each target with what came of it."""
    for row in rows:
        if row.why:
            value = "" if row.value is None else f"{row.value:g} {row.unit}, "
            say(f"{row.measure}: {value}{row.why}")
        if row.target and row.value is not None:
            verdict = f"{row.value:.3f} (target {row.target}) {'ok' if row.ok else 'missed'}"
            say(f"{row.measure}: {verdict}")
