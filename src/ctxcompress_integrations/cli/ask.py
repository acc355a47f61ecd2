"""``ask``: a question in, what the passages say to it out, and with a reader the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ctxcompress_integrations.cli import options as o
from ctxcompress_integrations.cli.screen import console, echo_json, plain, say

if TYPE_CHECKING:
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.options import Threshold
    from ctxcompress_integrations.pipeline import Answer
    from ctxcompress_integrations.records import CompressionResult

BUDGET = 1024
"""Reader positions for passages, unless the reader has room for less."""
LONGEST = 128
"""Tokens of an answer, at most, unless another number is asked for."""


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
    fast: o.Fast = False,
    device: o.Device = "auto",
    reader: Annotated[
        str | None, typer.Option(help="Name or folder of a decoder LM that answers; local for the one that is shipped.")
    ] = None,
    reader_model: Annotated[str | None, typer.Option(help="Which one --reader local is.")] = None,
    reader_budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Reader positions for all passages of the answer; {BUDGET}, or what a small reader has room for.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Longest answer of the reader, in tokens; {LONGEST}.")
    ] = None,
    html: Annotated[Path | None, typer.Option(callback=o.to_file, help="Write the heat map to this file.")] = None,
    as_json: o.Json = False,
) -> None:
    """Retrieve passages for a question, keep what it needs and, with a reader, answer it.

    A reader gets passages as text and, where the index holds summary vectors made for it, as vectors.
    """
    from ctxcompress_integrations._heatmap import report_html
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.loading import load_compressor
    from ctxcompress_integrations.pipeline import Pipeline
    from ctxcompress_integrations.readers import SMALL_WORLD

    if reader_model is not None and reader != "local":
        raise typer.BadParameter(
            f"says which one --reader local is, got --reader {reader}", param_hint="--reader-model"
        )
    for option, value in {"--reader-budget": reader_budget, "--max-new-tokens": max_new_tokens}.items():
        if value is not None and reader is None:
            raise typer.BadParameter(f"is the reader's, got {value} without --reader", param_hint=option)
    name = (reader_model or SMALL_WORLD) if reader == "local" else reader
    given = {"keep_ratio": keep_ratio, "token_budget": token_budget, "threshold": threshold}
    limits = limits_of(**given) if name is None else given  # a reader's budget is a limit of its own
    conditions = _conditions(where or [])
    with CompressedIndex.open(index, read_only=True) as opened:
        compressor = load_compressor(
            method, model=model, weights=weights, device=device, fast=fast, unit=unit, **limits
        )
        longest = max_new_tokens or LONGEST
        reading = {} if name is None else _reading(opened, name, question, reader_budget, longest, device)
        answer = Pipeline(opened, compressor, k=k, **reading).ask(question, where=conditions or None)
    if html is not None:
        html.write_text(report_html([answer.result], question), encoding="utf-8")
    if as_json:
        echo_json(answer_json(answer))
        return
    _show(answer)


def _show(answer: Answer) -> None:
    """What was kept of each passage, the figures, and the answer where there is one."""
    table = Table(expand=True)
    table.add_column("passage", overflow="fold")
    table.add_column("similarity", justify="right")
    table.add_column("kept", ratio=1, overflow="fold")
    for passage in answer.result.passages:
        table.add_row(plain(passage.id), f"{passage.score:.2f}", plain(passage.text) or Text("nothing", "dim"))
    console().print(table)
    ms = 1000 * (answer.seconds_retrieve + answer.seconds_compress)
    result = answer.result
    say(f"{result.n_tokens_in} -> {result.n_tokens_out} tokens ({result.keep_ratio:.0%} kept), {ms:.0f} ms")
    if answer.allocation is not None:
        forms = ", ".join(f"{share.id} {share.form}" for share in answer.allocation.shares)
        say(f"{answer.allocation.n_positions} reader positions: {forms}")
        say(answer.text or "")


def _reading(
    opened: CompressedIndex, reader: str, question: str, budget: int | None, max_new_tokens: int, device: str
) -> dict[str, Any]:
    """What a pipeline needs to answer a question with a reader by name."""
    from ctxcompress_integrations.pipeline import around
    from ctxcompress_integrations.readers import load_reader

    adapters = {adapter.name: adapter.name for adapter in opened.adapters.values()}
    loaded = load_reader(reader, device=device, adapters=adapters)
    if budget is None:
        room = loaded.room(around((), question), max_new_tokens=max_new_tokens)
        budget = BUDGET if room is None else max(1, min(BUDGET, room))
    return {
        "reader": loaded,
        "reader_budget": budget,
        "fingerprint": opened.fingerprint_for(loaded.identity or ""),
        "max_new_tokens": max_new_tokens,
    }


def limits_of(keep_ratio: float | None, token_budget: int | None, threshold: Threshold | None) -> dict[str, Any]:
    """The limits given, or a quarter of the tokens."""
    given = {"keep_ratio": keep_ratio, "token_budget": token_budget, "threshold": threshold}
    return given if any(value is not None for value in given.values()) else given | {"keep_ratio": 0.25}


def answer_json(answer: Answer) -> dict[str, Any]:
    """One answer as plain JSON values."""
    seconds = {"seconds_retrieve": answer.seconds_retrieve, "seconds_compress": answer.seconds_compress}
    found = {"question": answer.query, **seconds, **result_json(answer.result)}
    if answer.allocation is None:
        return found
    shares = [asdict(share) for share in answer.allocation.shares]
    return {**found, "answer": answer.text, "n_positions": answer.allocation.n_positions, "forms": shares}


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


def _conditions(given: Sequence[str]) -> dict[str, Any]:
    """What ``--where`` asks of the metadata; a key that is there twice would lose its first value."""
    found: dict[str, str] = {}
    for text in given:
        key = text.partition("=")[0]
        if key in found:
            raise ValueError(f"--where takes every key once, got {found[key]!r} and {text!r}: leave one out")
        found[key] = text
    return dict(map(_condition, given))


def _condition(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ValueError(f"--where takes key=value, got {text!r}")
    try:
        return key, json.loads(value)  # numbers, true and false are themselves
    except json.JSONDecodeError:
        return key, value
