"""``summarize``: the summary vectors of an index, built ahead of time."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import console, plain

if TYPE_CHECKING:
    from ctxcompress_integrations.index.summaries.info import SummaryInfo

Codec = Literal["fp16", "int8", "pq"]


def summarize(
    index: o.IndexDir,
    method: Annotated[str, typer.Option(help="autocompressor, icae, icformer, pooled or a registered one.")] = "pooled",
    model: Annotated[str | None, typer.Option(help="Name or folder of the model that summarizes.")] = None,
    weights: Annotated[str | None, typer.Option(help="What was trained: a file, or a published checkpoint.")] = None,
    reader: Annotated[str | None, typer.Option(help="For pooled: the reader, where it is not the model.")] = None,
    prefix: Annotated[str | None, typer.Option(help="For autocompressor: document or empty.")] = None,
    ending: Annotated[str | None, typer.Option(help="For icae and icformer: ae, lm or ft.")] = None,
    codec: Annotated[Codec | None, typer.Option(help="How vectors are stored; fp16 for a new summarizer.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are computed and committed together.")] = 64,
    repair: Annotated[bool, typer.Option("--repair", help="Compute again what damaged files held.")] = False,
    device: o.Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: o.Json = False,
) -> None:
    """Compute the summary vectors that an index lacks. What is there costs nothing; an interrupted run goes on."""
    from ctxcompress_integrations._progress import progress_bar
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.summarizers import load_summarizer

    with CompressedIndex.open(index) as opened:  # before any model loads: it may be missing or locked
        summarizer = load_summarizer(
            method,
            model=model,
            weights=weights,
            device=device,
            dtype=dtype,
            prefix=prefix,
            ending=ending,
            reader=reader,
        )
        with progress_bar(Console(stderr=True, quiet=as_json), transient=True) as bar:
            task = bar.add_task(f"summarizing with {method}", total=None)
            n_computed = opened.build_summaries(
                summarizer,
                codec=codec,
                batch_size=batch_size,
                repair=repair,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        infos = opened.summary_info()
    if as_json:
        found = [asdict(info) | {"is_built": info.fingerprint == summarizer.fingerprint} for info in infos]
        typer.echo(json.dumps({"index": str(index), "n_computed": n_computed, "summaries": found}))
        return
    console().print(_table(infos))
    typer.echo(f"{n_computed} computed by {summarizer.fingerprint[:12]}")


def _table(infos: list[SummaryInfo]) -> Table:
    table = Table("summarizer", "method", "texts", "missing", "vectors", "codec", "MiB", "relative error")
    for info in infos:
        table.add_row(
            info.fingerprint[:12],
            plain(str(info.identity.get("method", ""))),
            str(sum(info.rows.values())),
            str(info.n_missing),
            f"{info.n_vectors} x {info.width}",
            ", ".join(info.rows) or info.codec,
            f"{info.n_bytes / 2**20:.1f}",
            f"{info.relative_error:.1e}",
        )
    return table
