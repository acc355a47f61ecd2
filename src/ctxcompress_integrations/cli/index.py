"""``index`` and ``verify``: an index directory is filled, and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.lines import InputError
from ctxcompress_integrations.cli.screen import say

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
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove passages whose files are gone from the folders named.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Add files to an index. What is unchanged since the last run costs nothing.

    Passages that a file lost go. Ids begin with the path as it is given: name it alike in every run, from the same
    working folder.
    """
    from ctxcompress_integrations.cli.files import Reading
    from ctxcompress_integrations.index.layout import Layout

    reading = Reading(chunk_chars, tuple(glob or ()), left_out=index, prunes=prune)
    reading.read(paths)
    n_passages = n_changed = n_removed = 0
    try:
        if reading.passages or Layout(index).manifest.exists():
            n_passages, n_changed, n_removed = _add(index, embedder, reading, is_quiet=as_json)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was committed is kept, run the command again to go on", err=True)
        raise
    if not reading.passages and not n_removed:
        raise InputError(f"nothing to index in {', '.join(map(str, paths))}: {_skipped(reading.skipped)}")
    if as_json:
        figures = {
            "index": str(index),
            "n_passages": n_passages,
            "n_changed": n_changed,
            "n_removed": n_removed,
            "n_gone": len(reading.gone),
            "n_read": len(reading.passages),
        }
        typer.echo(json.dumps(figures | {"n_skipped": len(reading.skipped), "skipped": reading.skipped[:20]}))
        return
    say(f"{n_passages} passages in {index}, {n_changed} new or changed, {n_removed} removed")
    if reading.gone and not prune:
        say(
            f"files gone: {', '.join(sorted(reading.gone)[:3])}{' ...' if len(reading.gone) > 3 else ''} "
            f"({len(reading.gone)}); --prune removes their passages",
            err=True,
        )
    if reading.skipped:
        say(_skipped(reading.skipped), err=True)


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
        say("\n".join(problems) or f"{index}: {n_passages} passages, no problems")
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
        task = progress.add_task("indexing", total=len(passages))
        n_changed = opened.add(passages, batch_size=64, progress=lambda n, _: progress.update(task, completed=n))
        unread = [id_ for id_ in opened.ids() if id_ not in reading.passages]
        others = (passage for n in range(0, len(unread), 1000) for passage in opened.get(unread[n : n + 1000]))
        n_removed = opened.delete(reading.outdated(others))
        return len(opened), n_changed, n_removed


def _skipped(skipped: list[tuple[str, str]]) -> str:
    if not skipped:
        return "no files"
    named = ", ".join(f"{name} ({why})" for name, why in skipped[:3])
    return f"skipped {len(skipped)}: {named}{' ...' if len(skipped) > 3 else ''}"
