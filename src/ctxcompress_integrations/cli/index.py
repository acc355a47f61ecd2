"""``index`` and ``verify``: an index directory is filled, and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ctxcompress_integrations.cli import options as o

if TYPE_CHECKING:
    from ctxcompress_integrations.cli.files import Reading


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


def _skipped(skipped: list[tuple[str, str]]) -> str:
    if not skipped:
        return "no files"
    named = ", ".join(f"{name} ({why})" for name, why in skipped[:3])
    return f"skipped {len(skipped)}: {named}{' ...' if len(skipped) > 3 else ''}"
