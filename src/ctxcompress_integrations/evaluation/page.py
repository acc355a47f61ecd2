"""A report as people read it: a table in the terminal, and a page with plots that the documentation includes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ctxcompress_integrations._optional import require

Rows = Sequence[Mapping[str, Any]]
"""Rows of the report's JSON."""
RATIOS = (0.5, 0.25, 0.1, 0.05)
MET = {True: "yes", False: "no", None: "not measured"}
HEADLINE = {"answer kept": "answer kept", "all support kept": "all support kept", "support recall": "support recall"}


def tables(rows: Rows) -> Group:
    """One table per data set and measure: methods down, budgets across."""
    return Group(*(_table(rows, name, measure) for name in _sets(rows) for measure in _measures(rows, name)))


def write_page(report: Mapping[str, Any], folder: Path) -> Path:
    """Write ``evaluation-report.md`` and its plots (SVG) into ``folder``.

    Args:
        report: what the evaluation wrote as JSON.
        folder: made when it does not exist.
    """
    rows: Rows = report["rows"]
    folder.mkdir(parents=True, exist_ok=True)
    machine = report["machine"]
    lines = [
        "# Evaluation report",
        "",
        f"Made by `{report['command']}`, {machine['cpu']}, {machine['cores']} cores, GPU {machine['gpu'] or 'none'}.",
        "Every method chose among the same passages under the same budget; tokens are counted by one tokenizer.",
        "Brackets: 95 % bootstrap intervals. *keep* lets the first sentence exceed; the JSON has hard budgets too.",
    ]
    targets = [row for row in rows if row["target"]]
    if targets:
        lines += ["", "## Targets", "", "| measure | value | target | met |", "|---|---|---|---|"]
        lines += [f"| {row['measure']} | {_value(row)} | {row['target']} | {MET[row['ok']]} |" for row in targets]
    for name in _sets(rows):
        lines += ["", f"## {name}"]
        for measure in _measures(rows, name):
            lines += ["", *_markdown(rows, name, measure)]
        plot = folder / f"evaluation-{name}.svg"
        if _plot(rows, name, plot):
            lines += ["", f"![{name}: {_measures(rows, name)[0]} over tokens kept, and over milliseconds]({plot.name})"]
    page = folder / "evaluation-report.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def _table(rows: Rows, name: str, measure: str) -> Table:
    table = Table(title=escape(f"{name}: {measure}"), title_justify="left", title_style="bold")
    header, body = _cells(rows, name, measure, _plus_minus)
    for i, title in enumerate(header):
        table.add_column(title, justify="right" if i else "left", no_wrap=not i)
    for line in body:
        table.add_row(*map(escape, line))
    return table


def _markdown(rows: Rows, name: str, measure: str) -> list[str]:
    header, body = _cells(rows, name, measure)
    cells = [header, ["---"] * len(header), *body]
    return [f"**{measure}**", "", *(f"| {' | '.join(line)} |" for line in cells)]


def _cells(
    rows: Rows, name: str, measure: str, show: Callable[[Mapping[str, Any] | None], str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and lines: value and interval per budget, tokens kept at a quarter, median time."""
    found = {(r["labels"]["method"], r["labels"]["budget"], r["labels"]["measure"]): r for r in _of(rows, name)}
    budgets = [f"keep_ratio {ratio:g}" for ratio in RATIOS]
    budgets = [b for b in budgets if any(key[1] == b and key[2] == measure for key in found)]
    header = [
        "method",
        *(b.replace("keep_ratio ", "keep ") for b in budgets),
        "tokens at .25",
        "gap closed at .25",
        "ms",
    ]
    body = []
    for method in dict.fromkeys(key[0] for key in found if key[2] == measure and " minus " not in key[2]):
        line = [method, *((show or _value)(found.get((method, b, measure))) for b in budgets)]
        line.append(_value(found.get((method, "keep_ratio 0.25", "tokens kept")), plain=True))
        line.append(_value(found.get((method, "keep_ratio 0.25", f"gap closed, {measure}")), plain=True))
        line.append(_value(found.get((method, "keep_ratio 0.25", "time, median")), plain=True))
        body.append(line)
    return header, body


def _value(row: Mapping[str, Any] | None, *, plain: bool = False) -> str:
    if row is None or row["value"] is None:
        return "–"
    value = f"{row['value']:.3f}" if abs(row["value"]) < 10 else f"{row['value']:.0f}"
    return value if plain or not row["spread"] else f"{value} [{row['spread'][0]:.3f}, {row['spread'][1]:.3f}]"


def _plus_minus(row: Mapping[str, Any] | None) -> str:
    """Value and half the width of its interval."""
    if row is None or row["value"] is None or not row["spread"]:
        return _value(row)
    return f"{_value(row, plain=True)} ±{(row['spread'][1] - row['spread'][0]) / 2:.3f}"


def _of(rows: Rows, name: str) -> Rows:
    return [row for row in rows if row["labels"].get("set") == name and "method" in row["labels"]]


def _sets(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["labels"]["set"] for row in rows if {"set", "method"} <= set(row["labels"])))


def _measures(rows: Rows, name: str) -> list[str]:
    measured = {row["labels"]["measure"] for row in _of(rows, name)}
    return [
        measure
        for measure in HEADLINE
        if measure in measured
        and not (measure == "support recall" and "all support kept" in measured and "answer kept" in measured)
    ]


def _plot(rows: Rows, name: str, path: Path) -> bool:
    measures = _measures(rows, name)
    if not measures:
        return False
    require("matplotlib", extra="eval")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    measure = measures[0]
    values = {
        (r["labels"]["method"], r["labels"]["budget"], r["labels"]["measure"]): r["value"] for r in _of(rows, name)
    }
    methods = [m for m in dict.fromkeys(key[0] for key in values) if (m, "keep_ratio 0.25", measure) in values]
    figure = Figure(figsize=(10, 4), layout="constrained")
    over_tokens, over_time = figure.subplots(1, 2, sharey=True)
    for i, method in enumerate(methods):
        style = {"color": f"C{i}", "marker": "osD^vPX*"[i % 8], "label": method}
        points = sorted(
            (values[method, b, "tokens kept"], values[method, b, measure])
            for b in (f"keep_ratio {ratio:g}" for ratio in RATIOS)
            if (method, b, measure) in values
        )
        over_tokens.plot(*zip(*points, strict=True), **style)
        ms = values.get((method, "keep_ratio 0.25", "time, median"))
        if ms is not None:
            over_time.plot([ms], [values[method, "keep_ratio 0.25", measure]], linestyle="none", **style)
    limit = sorted(
        (r["labels"]["rate"], r["value"])
        for r in rows
        if r["labels"].get("set") == name and r["labels"].get("measure") == f"oracle, {measure}"
    )
    if limit:
        over_tokens.plot(*zip(*((float(rate), value) for rate, value in limit), strict=True), "k--", label="oracle")
    over_tokens.set(xlabel="tokens kept", ylabel=measure, title=f"{name}: what is kept of what is paid for")
    over_time.set(xlabel="ms per request, median", xscale="log", title="keep_ratio 0.25")
    over_time.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    over_time.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    over_time.xaxis.set_minor_formatter(NullFormatter())
    over_tokens.grid(alpha=0.3)
    over_time.grid(alpha=0.3)
    over_tokens.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    return True
