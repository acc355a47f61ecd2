"""What was kept and what was cut, as HTML: for notebooks (``_repr_html_``) and for a page of its own.

Self-contained: inline styles, no script, readable on light and dark pages. Everything from a document is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ctxcompress_integrations.records import CompressedPassage, CompressionResult

ELIDE_FROM = 1200
"""A cut stretch longer than this shows its two ends only: the page stays small."""
_N_SHADES = 6
_STYLE = """
.ctxc{font:15px/1.55 system-ui,sans-serif;max-width:60rem;color:#1b1f24}
.ctxc h3{font-size:1.05em;margin:0 0 .3em}.ctxc .fig{font-size:.85em;color:#57606a;margin:0 0 1em}
.ctxc .bar{height:6px;background:#d8dee4;border-radius:3px;margin:.2em 0 .5em;overflow:hidden}
.ctxc .bar b{display:block;height:100%;background:#c2571a}
.ctxc article{border:1px solid #d0d7de;border-radius:8px;padding:.7em 1em;margin:.7em 0;background:#fff}
.ctxc article.none{opacity:.75}.ctxc header{font-size:.8em;color:#57606a;margin-bottom:.3em}
.ctxc header b{color:#1b1f24}.ctxc p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
.ctxc del{color:#6e7781;text-decoration:line-through;text-decoration-color:#c4cad1}
.ctxc i{font-style:normal;border-radius:2px}
.ctxc .s1{background:#fff4e5}.ctxc .s2{background:#ffe3bf}.ctxc .s3{background:#ffd099}
.ctxc .s4{background:#ffba70}.ctxc .s5{background:#ffa14a}
@media(prefers-color-scheme:dark){
.ctxc{color:#e6edf3}.ctxc .fig,.ctxc header{color:#9da7b3}.ctxc header b{color:#e6edf3}.ctxc .bar{background:#30363d}
.ctxc article{background:#161b22;border-color:#30363d}.ctxc del{color:#848d97;text-decoration-color:#4a525b}
.ctxc .s1{background:#3a2a17}.ctxc .s2{background:#54391b}.ctxc .s3{background:#6f471c}
.ctxc .s4{background:#8b561c}.ctxc .s5{background:#a8651b}}
"""


def result_html(result: CompressionResult) -> str:
    """One result as an HTML fragment."""
    return f"<style>{_STYLE}</style>{_section(result)}"


def report_html(results: Iterable[CompressionResult], title: str) -> str:
    """A whole page of results."""
    sections = "\n".join(_section(result) for result in results)
    legend = " ".join(f'<i class="s{shade}">&nbsp;score&nbsp;</i>' for shade in range(1, _N_SHADES))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>"
        "body{margin:2rem auto;padding:0 1rem;max-width:60rem;background:#f6f8fa}"
        f"@media(prefers-color-scheme:dark){{body{{background:#0d1117}}}}.ctxc+.ctxc{{margin-top:3rem}}{_STYLE}</style>"
        f'</head><body><div class="ctxc"><h2>{escape(title)}</h2><p class="fig">kept text, darker where the question '
        f"finds more: {legend} &nbsp; <del>cut text</del></p></div>\n{sections}</body></html>\n"
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
    title = passage.metadata.get("title")
    name = f"<b>{escape(passage.id)}</b>" + (f" &middot; {escape(str(title))}" if title and title != passage.id else "")
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
            if len(cut) > ELIDE_FROM:
                half = ELIDE_FROM // 2
                cut = f"{cut[:half]} [... {len(cut) - ELIDE_FROM} characters ...] {cut[-half:]}"
            yield f"<del>{escape(cut)}</del>"
        yield from _shaded(text, shades, start, end)
        at = end


def _shaded(text: str, shades: np.ndarray, start: int, end: int) -> Iterator[str]:
    """The kept stretch, cut where the shade changes."""
    if start == end:
        return
    edges = [start, *(start + 1 + np.flatnonzero(np.diff(shades[start:end]))).tolist(), end]
    for a, b in pairwise(edges):
        piece = escape(text[a:b])
        yield f'<i class="s{shades[a]}">{piece}</i>' if shades[a] else piece


def _shades(passage: CompressedPassage, low: float, high: float) -> np.ndarray:
    """A shade 0 ... 5 for each character, the same over each run of touching tokens' white-space-free word."""
    shades = np.zeros(len(passage.original), dtype=np.int8)
    relevance = passage.relevance
    if relevance is None or not len(relevance.scores) or high <= low:
        return shades
    scaled = (relevance.scores * relevance.weight - low) / (high - low)
    levels = np.clip(np.nan_to_num(scaled) * _N_SHADES, 0, _N_SHADES - 1).astype(np.int8)
    previous_end, previous_start, level = -1, 0, 0
    for (start, end), own in zip(relevance.offsets.tolist(), levels.tolist(), strict=True):
        is_same_word = start <= previous_end  # pieces of one word, and bytes of one character, share the best shade
        level = max(level, own) if is_same_word else own
        first = previous_start if is_same_word else start
        shades[first:end] = level
        previous_start, previous_end = first, end
    return shades


def _range(result: CompressionResult) -> tuple[float, float]:
    """Lower and upper end of the scale: the middle half of all scores is pale, the best few are dark."""
    found = [p.relevance.scores * p.relevance.weight for p in result.passages if p.relevance is not None]
    scores = np.concatenate(found) if found else np.empty(0)
    if not len(scores):
        return 0.0, 0.0
    return float(np.quantile(scores, 0.5)), float(np.quantile(scores, 0.99))
