"""``compress``: texts on standard input, or requests as JSON lines, without any index."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import track

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.ask import limits_of, result_json
from ctxcompress_integrations.cli.lines import InputError, numbered, parsed
from ctxcompress_integrations.cli.screen import echo_json, echo_text
from ctxcompress_integrations.options import as_passages
from ctxcompress_integrations.records import Passage

Request: TypeAlias = tuple[Sequence[Passage | str], str]
AT_ONCE = 32
"""Requests that are scored together; what they keep is printed before the next ones are."""


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
    weights: o.Weights = None,
    fast: o.Fast = False,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Compress texts: plain ones with --query, or one JSON request a line, answered by one JSON line each (with --json
    by one list of them all).
    """
    from ctxcompress_integrations.loading import load_compressor

    limits = limits_of(keep_ratio, token_budget, threshold)
    text = _read(file)
    requests = _requests(text) if query is None else [_plain(text, query)]
    compressor = load_compressor(method, model=model, weights=weights, device=device, fast=fast, unit=unit, **limits)
    found = []
    is_quiet = as_json or len(requests) <= AT_ONCE or sys.stdout.isatty()
    starts = range(0, len(requests), AT_ONCE)
    for start in track(starts, "compressing", console=Console(stderr=True), disable=is_quiet):
        for result in compressor.compress_many(requests[start : start + AT_ONCE]):
            if as_json:
                found.append(result_json(result))
            elif query is None:
                echo_json(result_json(result))
            else:
                echo_text(result.text)
    if as_json:
        echo_json(found if query is None else found[0])


def _read(file: Path | None) -> str:
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file or 'standard input'} is not UTF-8 ({error}): convert it, as with iconv") from error
    except OSError as error:
        raise InputError(
            f"{file or 'standard input'} cannot be read ({error.strerror}): name a file, or none for standard input"
        ) from error


def _plain(text: str, query: str) -> Request:
    if not query.strip():
        raise ValueError(f"--query must not be blank, got {query!r}")
    return [part for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if part.strip()], query


def _requests(text: str) -> list[Request]:
    return [_request(number, line) for number, line in numbered(text)]


def _request(number: int, line: str) -> Request:
    try:
        row = parsed(line)
        if not isinstance(row["passages"], list) or not isinstance(row["query"], str) or not row["query"].strip():
            raise TypeError("passages must be a list, and query a text that is not blank")
        return as_passages([p if isinstance(p, str) else _passage(p) for p in row["passages"]]), row["query"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'line {number} is no request ({error}): give {{"query": "...", "passages": ["...", {{"id", "text"}}]}}, '
            "or plain text and --query"
        ) from error


def _passage(row: dict[str, Any]) -> Passage:
    return Passage(str(row["id"]), row["text"], row.get("score"), row.get("metadata") or {})
