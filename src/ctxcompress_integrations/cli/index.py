"""``index``, ``ask`` and ``verify``: the commands that work on an index directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxcompress_integrations.cli import options as o

if TYPE_CHECKING:
    from ctxcompress_integrations.cli.files import Reading
    from ctxcompress_integrations.options import Threshold
    from ctxcompress_integrations.pipeline import Answer
    from ctxcompress_integrations.records import CompressionResult


def index(
    paths: Annotated[list[Path], typer.Argument(help="Text files, JSON lines, or folders of them.")],
    index: o.IndexDir,
    embedder: Annotated[str, typer.Option(help="mini or a sentence-transformers name.")] = "mini",
    glob: Annotated[
        list[str] | None, typer.Option(help="Take only such files from folders, as in '*.html'; repeatable.")
    ] = None,
    chunk_chars: Annotated[int, typer.Option(min=50, help="Characters per passage of a text file.")] = 1000,
    as_json: o.Json = False,
) -> None:
    """Add files to an index. What is unchanged since the last run costs nothing; chunks that a file lost go."""
    from ctxcompress_integrations.cli.files import Reading

    reading = Reading(chunk_chars, tuple(glob or ()), left_out=index)
    reading.read(paths)
    if not reading.passages:
        raise ValueError(f"nothing to index in {', '.join(map(str, paths))}: {_skipped(reading.skipped)}")
    try:
        n_passages, n_changed, n_removed = _add(index, embedder, reading, is_quiet=as_json)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was committed is kept, run the command again to go on", err=True)
        raise
    if as_json:
        figures = {
            "index": str(index),
            "n_passages": n_passages,
            "n_changed": n_changed,
            "n_removed": n_removed,
            "n_read": len(reading.passages),
        }
        typer.echo(json.dumps(figures | {"n_skipped": len(reading.skipped), "skipped": reading.skipped[:20]}))
        return
    typer.echo(f"{n_passages} passages in {index}, {n_changed} new or changed, {n_removed} removed")
    if reading.skipped:
        typer.echo(_skipped(reading.skipped), err=True)


def ask(
    question: Annotated[str, typer.Argument(help="The question, in any language.")],
    index: o.IndexDir,
    k: Annotated[int, typer.Option("--k", min=1, help="Passages to retrieve.")] = 8,
    keep_ratio: o.KeepRatio = None,
    token_budget: o.TokenBudget = None,
    threshold: o.Threshold = None,
    unit: o.UnitName = "sentence",
    where: Annotated[list[str] | None, typer.Option(help="key=value that the metadata must have; repeatable.")] = None,
    method: o.Method = "mini",
    model: o.Model = None,
    weights: o.Weights = None,
    device: o.Device = "auto",
    html: Annotated[Path | None, typer.Option(help="Write the heat map to this file.")] = None,
    as_json: o.Json = False,
) -> None:
    """Retrieve passages for a question and keep what it needs."""
    from ctxcompress_integrations._heatmap import report_html
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.loading import load_compressor
    from ctxcompress_integrations.pipeline import Pipeline

    limits = limits_of(keep_ratio, token_budget, threshold)
    conditions = dict(_condition(text) for text in where or [])
    with CompressedIndex.open(index, read_only=True) as opened:
        compressor = load_compressor(method, model=model, weights=weights, device=device, **limits, unit=unit)
        answer = Pipeline(opened, compressor, k=k).ask(question, where=conditions or None)
    if html is not None:
        html.write_text(report_html([answer.result], question), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(answer_json(answer), ensure_ascii=False))
        return
    table = Table(expand=True)
    for name, settings in {
        "passage": {"overflow": "fold"},
        "similarity": {"justify": "right"},
        "kept": {"ratio": 1},
    }.items():
        table.add_column(name, **settings)  # type: ignore[arg-type]
    for passage in answer.result.passages:
        kept = escape(passage.text) or "[dim]nothing[/dim]"
        table.add_row(escape(passage.id), f"{passage.score:.2f}", kept)
    console = Console()
    console.print(table)
    ms = 1000 * (answer.seconds_retrieve + answer.seconds_compress)
    result = answer.result
    console.print(f"{result.n_tokens_in} -> {result.n_tokens_out} tokens ({result.keep_ratio:.0%} kept), {ms:.0f} ms")


def verify(index: Annotated[Path, typer.Argument(help="The index directory.")], as_json: o.Json = False) -> None:
    """Check every file of an index: hashes, database, the same ids on both sides."""
    from ctxcompress_integrations.errors import IndexDamagedError
    from ctxcompress_integrations.index.compressed_index import CompressedIndex

    n_passages = None
    try:
        with CompressedIndex.open(index, read_only=True) as opened:
            problems, n_passages = opened.verify(), len(opened)
    except IndexDamagedError as error:  # too damaged to be opened: that is what was asked
        problems = [str(error)]
    if as_json:
        typer.echo(json.dumps({"index": str(index), "n_passages": n_passages, "problems": problems}))
    else:
        typer.echo("\n".join(problems) or f"{index}: {n_passages} passages, no problems")
    raise typer.Exit(1 if problems else 0)


def _add(path: Path, embedder: str, reading: Reading, *, is_quiet: bool) -> tuple[int, int, int]:
    """Passages in the index afterwards, how many were new or changed, and how many went; a progress bar meanwhile."""
    from ctxcompress_integrations._progress import progress_bar
    from ctxcompress_integrations.index.compressed_index import CompressedIndex

    passages = list(reading.passages.values())
    with (
        CompressedIndex.create(path, embedder=embedder, exist_ok=True) as opened,
        progress_bar(Console(stderr=True, quiet=is_quiet)) as progress,
    ):
        task = progress.add_task(f"indexing into {escape(str(path))}", total=len(passages))
        n_changed = opened.add(passages, batch_size=64, progress=lambda n, _: progress.update(task, completed=n))
        n_removed = opened.delete(reading.outdated(opened.ids()))
        return len(opened), n_changed, n_removed


def limits_of(keep_ratio: float | None, token_budget: int | None, threshold: Threshold | None) -> dict[str, Any]:
    """The limits given, or a quarter of the tokens."""
    given = {"keep_ratio": keep_ratio, "token_budget": token_budget, "threshold": threshold}
    return given if any(value is not None for value in given.values()) else given | {"keep_ratio": 0.25}


def answer_json(answer: Answer) -> dict[str, Any]:
    """One answer as plain JSON values."""
    seconds = {"seconds_retrieve": answer.seconds_retrieve, "seconds_compress": answer.seconds_compress}
    return {"question": answer.query, **seconds, **result_json(answer.result)}


def result_json(result: CompressionResult) -> dict[str, Any]:
    """One compression as plain JSON values."""
    return {
        "query": result.query,
        "n_tokens_in": result.n_tokens_in,
        "n_tokens_out": result.n_tokens_out,
        "keep_ratio": result.keep_ratio,
        "text": result.text,
        "passages": [
            {
                "id": p.id,
                "score": p.score,
                "text": p.text,
                "spans": [list(s) for s in p.spans],
                "metadata": dict(p.metadata),
            }
            for p in result.passages
        ],
    }


def _condition(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ValueError(f"--where takes key=value, got {text!r}")
    try:
        return key, json.loads(value)  # numbers, true and false are themselves
    except json.JSONDecodeError:
        return key, value


def _skipped(skipped: list[tuple[str, str]]) -> str:
    if not skipped:
        return "no files"
    named = ", ".join(f"{name} ({why})" for name, why in skipped[:3])
    return f"skipped {len(skipped)}: {named}{' ...' if len(skipped) > 3 else ''}"
