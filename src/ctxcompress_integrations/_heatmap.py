"""What was kept and what was cut, as HTML: for notebooks (``_repr_html_``) and for a page of its own.

Self-contained: inline styles, no script, readable on light and dark pages. Everything from a document is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ctxcompress_integrations.records import CompressedPassage, CompressionResult

ELIDE_FROM = 1200
"""A cut stretch longer than this shows its two ends only: the page stays small."""
_N_SHADES = 6
_SPACELESS = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x9FFF),  # Han, Kana
    (0xA980, 0xA9DF),  # Javanese
    (0xF900, 0xFAFF),  # Han
    (0x20000, 0x3FFFF),  # Han
)
"""Scripts that put no space between words: tokens that touch are not one word there."""
_LIGHT = (
    "--text:#1b1f24;--soft:#57606a;--page:#f6f8fa;--card:#fff;--line:#d0d7de;--cut:#6a737c;--strike:#c4cad1;"
    "--bar:#c2571a;--s1:#fff4e5;--s2:#ffe3bf;--s3:#ffd099;--s4:#ffba70;--s5:#ffa14a"
)
_DARK = (
    "--text:#e6edf3;--soft:#9da7b3;--page:#0d1117;--card:#161b22;--line:#30363d;--cut:#8b949e;--strike:#4a525b;"
    "--bar:#d9722e;--s1:#3a2a17;--s2:#4d341a;--s3:#60401a;--s4:#784a18;--s5:#925612"
)
# A notebook's theme need not be the system's: JupyterLab and VS Code say theirs on the body.
_STYLE = f"""
.ctxc{{{_LIGHT};font:15px/1.55 system-ui,sans-serif;max-width:60rem;padding:.6em .9em;border-radius:10px;
background:var(--page);color:var(--text)}}
@media(prefers-color-scheme:dark){{.ctxc{{{_DARK}}}}}
[data-jp-theme-light=true] .ctxc,.vscode-light .ctxc{{{_LIGHT}}}
[data-jp-theme-light=false] .ctxc,.vscode-dark .ctxc{{{_DARK}}}
.ctxc h3{{font-size:1.05em;margin:0 0 .3em}}.ctxc p.fig{{font-size:.85em;color:var(--soft);margin:0 0 1em}}
.ctxc .bar{{height:6px;background:var(--line);border-radius:3px;margin:.2em 0 .5em;overflow:hidden}}
.ctxc .bar b{{display:block;height:100%;background:var(--bar)}}
.ctxc article{{border:1px solid var(--line);border-radius:8px;padding:.7em 1em;margin:.7em 0;background:var(--card)}}
.ctxc article.none{{border-style:dashed}}.ctxc header{{font-size:.8em;color:var(--soft);margin-bottom:.3em}}
.ctxc header b{{color:var(--text)}}.ctxc p{{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}}
.ctxc del{{color:var(--cut);text-decoration:line-through;text-decoration-color:var(--strike)}}
.ctxc i{{font-style:normal;border-radius:2px;color:var(--text)}}
""" + "".join(f".ctxc .s{shade}{{background:var(--s{shade})}}" for shade in range(1, _N_SHADES))


def result_html(result: CompressionResult) -> str:
    """One result as an HTML fragment."""
    return f"<style>{_STYLE}</style>{_section(result)}"


def report_html(results: Iterable[CompressionResult], title: str) -> str:
    """A whole page of results."""
    sections = "\n".join(_section(result) for result in results)
    legend = " ".join(f'<i class="s{shade}">&emsp;</i>' for shade in range(1, _N_SHADES))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>"
        "body{margin:1.5rem auto;padding:0 .5rem;max-width:62rem;background:#f6f8fa}"
        f"@media(prefers-color-scheme:dark){{body{{background:#0d1117}}}}.ctxc+.ctxc{{margin-top:1.5rem}}{_STYLE}</style>"
        f'</head><body><main><div class="ctxc"><h2 dir="auto">{escape(title)}</h2><p class="fig">kept text, stronger '
        f"where the question finds more: little {legend} much &nbsp;&middot;&nbsp; <del>cut text</del></p></div>\n"
        f"{sections}</main></body></html>\n"
    )


def _section(result: CompressionResult) -> str:
    low, high = _range(result)
    passages = "\n".join(_article(passage, low, high) for passage in result.passages)
    width = min(100.0, 100 * result.keep_ratio)
    source = "scores at hand" if result.from_cache else "scored"
    return (
        f'<div class="ctxc"><h3 dir="auto">{escape(result.query)}</h3>'
        f'<div class="bar" role="img" aria-label="{width:.0f} % kept"><b style="width:{width:.1f}%"></b></div>'
        f'<p class="fig">{result.n_tokens_in} &rarr; {result.n_tokens_out} tokens '
        f"({100 * result.keep_ratio:.0f} % kept), {1000 * result.seconds:.0f} ms, {source}</p>\n{passages}</div>"
    )


def _article(passage: CompressedPassage, low: float, high: float) -> str:
    title = passage.title
    name = f"<b>{escape(passage.id)}</b>" + (f" &middot; {escape(title)}" if title and title != passage.id else "")
    score = "" if passage.score is None else f" &middot; similarity {passage.score:.2f}"
    n_kept = sum(end - start for start, end in passage.spans)
    kept = f"{100 * n_kept / max(1, len(passage.original)):.0f} % of the characters kept" if n_kept else "nothing kept"
    body = "".join(_pieces(passage, low, high))
    empty = ' class="none"' if passage.is_empty else ""
    return f'<article{empty}><header>{name}{score} &middot; {kept}</header><p dir="auto">{body}</p></article>'


def _pieces(passage: CompressedPassage, low: float, high: float) -> Iterator[str]:
    text, at = passage.original, 0
    shades = _shades(passage, low, high)
    for start, end in (*passage.spans, (len(text), len(text))):
        if cut := text[at:start]:
            yield f"<del>{escape(_elided(cut))}</del>"
        yield from _shaded(text, shades, start, end)
        at = end


def _elided(cut: str) -> str:
    """The two ends of a long stretch, a character and its combining marks together."""
    if len(cut) <= ELIDE_FROM:
        return cut
    head, tail = ELIDE_FROM // 2, len(cut) - ELIDE_FROM // 2
    while head < tail and _is_attached(cut, head):
        head += 1
    while head < tail and _is_attached(cut, tail):
        tail -= 1
    return f"{cut[:head]} [... {tail - head} characters ...] {cut[tail:]}"


def _shaded(text: str, shades: NDArray[np.int8], start: int, end: int) -> Iterator[str]:
    """The kept stretch, cut where the shade changes."""
    if start == end:
        return
    edges = [start, *(start + 1 + np.flatnonzero(np.diff(shades[start:end]))).tolist(), end]
    for a, b in pairwise(edges):
        piece = escape(text[a:b])
        yield f'<i class="s{shades[a]}">{piece}</i>' if shades[a] else piece


def _shades(passage: CompressedPassage, low: float, high: float) -> NDArray[np.int8]:
    """A shade 0 ... 5 for each character; pieces of one word, and bytes of one character, share the best one."""
    text, relevance = passage.original, passage.relevance
    shades = np.zeros(len(text), dtype=np.int8)
    if relevance is None or not len(relevance.scores) or high <= low:
        return shades
    scaled = (relevance.scores * relevance.weight - low) / (high - low)
    levels = np.clip(np.nan_to_num(scaled) * _N_SHADES, 0, _N_SHADES - 1).astype(np.int8)
    starts, reach = relevance.offsets[:, 0], np.maximum.accumulate(relevance.offsets[:, 1])
    is_first = np.append(True, starts[1:] >= reach[:-1])
    touching = 1 + np.flatnonzero(starts[1:] == reach[:-1])
    is_first[touching] = [not _is_one_word(text, at) for at in starts[touching].tolist()]
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(starts)) - 1
    best = np.maximum.reduceat(levels, first)
    for start, end, level in zip(starts[first].tolist(), reach[last].tolist(), best.tolist(), strict=True):
        shades[start:end] = level
    return shades


def _is_one_word(text: str, at: int) -> bool:
    """Whether two tokens that touch at ``at`` belong to one word."""
    if not 0 < at < len(text) or _is_attached(text, at):
        return True
    return not any(low <= ord(side) <= high for side in text[at - 1 : at + 1] for low, high in _SPACELESS)


def _is_attached(text: str, at: int) -> bool:
    """Whether the character at ``at`` is a mark on the one before it, or is joined to it (emoji)."""
    return "\u200d" in text[at - 1 : at + 1] or category(text[at])[0] == "M" or "\U0001f3fb" <= text[at] <= "\U0001f3ff"


def _range(result: CompressionResult) -> tuple[float, float]:
    """Lower and upper end of the scale: the middle half of all scores is pale, the best few are dark."""
    found = [p.relevance.scores * p.relevance.weight for p in result.passages if p.relevance is not None]
    scores = np.concatenate(found) if found else np.empty(0)
    if not len(scores):
        return 0.0, 0.0
    return float(np.quantile(scores, 0.5)), float(np.quantile(scores, 0.99))
