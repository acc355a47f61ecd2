"""``compress``: texts on standard input, or requests as JSON lines, without any index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.index import limits_of


def compress(
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines of {query, passages}; standard input when absent.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="Take plain text, passages apart by blank lines, for this question.")
    ] = None,
    keep_ratio: o.KeepRatio = None,
    token_budget: o.TokenBudget = None,
    threshold: o.Threshold = None,
    unit: o.UnitName = "sentence",
    method: o.Method = "mini",
    model: o.Model = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Compress texts: plain ones with --query, or one JSON request a line."""
    from ctxcompress_integrations.loading import load_compressor

    limits = limits_of(keep_ratio, token_budget, threshold)
    text = sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
    requests = (
        [([part for part in text.split("\n\n") if part.strip()], query)] if query else list(map(_request, _lines(text)))
    )
    compressor = load_compressor(method, model=model, device=device, **limits, unit=unit)
    for result in compressor.compress_many(requests):
        if query and not as_json:
            typer.echo(result.text)
            continue
        passages = [{"id": p.id, "text": p.text, "spans": [list(s) for s in p.spans]} for p in result.passages]
        figures = {"query": result.query, "n_tokens_in": result.n_tokens_in, "n_tokens_out": result.n_tokens_out}
        typer.echo(json.dumps(figures | {"passages": passages}, ensure_ascii=False))


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _request(numbered: tuple[int, str]) -> tuple[list[Any], str]:
    from ctxcompress_integrations.records import Passage

    number, line = numbered
    try:
        row = json.loads(line)
        passages = [p if isinstance(p, str) else Passage(str(p["id"]), p["text"]) for p in row["passages"]]
        return passages, row["query"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'line {number} is no request ({error}): give {{"query": "...", "passages": ["...", {{"id", "text"}}]}}'
        ) from error
