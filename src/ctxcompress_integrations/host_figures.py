"""What a host's document or node says of the compressions that it went through, under one key of its metadata."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from ctxcompress_integrations.records import CompressedPassage, CompressionResult, Span

KEY = "ctxcompress"


def with_figures(metadata: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a passage's metadata with figures under the package's one key, beside what stands there."""
    ours = metadata.get(KEY)
    return {**metadata, KEY: {**(ours if isinstance(ours, Mapping) else {}), **figures}}


def with_run(metadata: Mapping[str, Any], result: CompressionResult, passage: CompressedPassage) -> dict[str, Any]:
    """A copy of a passage's metadata with the figures of a run.

    ``spans`` are characters of the text that came in first, of ``n_chars_in`` characters, even when it has been
    compressed before; ``starts`` say where each of them begins in the ``n_chars_out`` characters that are kept.
    """
    spans, starts, n_chars = list(passage.spans), starts_of(passage), len(passage.original)
    earlier = _earlier(metadata, n_chars)
    if earlier is not None:
        traced = [
            (source, start + at)
            for span, start in zip(spans, starts, strict=True)
            for source, at in _traced(span, earlier)
        ]
        spans, starts, n_chars = [span for span, _ in traced], [start for _, start in traced], earlier.n_chars_in
    places = {
        "spans": [list(span) for span in spans],
        "starts": starts,
        "n_chars_in": n_chars,
        "n_chars_out": len(passage.text),
    }
    return with_figures(metadata, {**result.figures(passage), **places})


def starts_of(passage: CompressedPassage) -> list[int]:
    """Where each span begins in the text that was kept."""
    if not passage.spans:
        return []
    lengths = [_length(span) for span in passage.spans]
    gaps = [
        int(any(map(str.isspace, passage.original[before.end : after.start])))
        for before, after in pairwise(passage.spans)
    ]
    n_between = len(passage.text) - sum(lengths)
    if gaps and n_between != sum(gaps):
        gaps = [n_between // len(gaps)] * len(gaps)  # a joiner that was asked for, always the same
    return list(accumulate((length + gap for length, gap in zip(lengths, gaps, strict=False)), initial=0))


class _Run(NamedTuple):
    """Where the text that an earlier run left stood in what had come in."""

    spans: list[Span]
    starts: list[int]
    n_chars_in: int


def _earlier(metadata: Mapping[str, Any], n_chars: int) -> _Run | None:
    """The run that left the ``n_chars`` characters that are here now; None where metadata tells of none that could."""
    ours: Any = metadata.get(KEY)
    try:
        spans = [Span(int(start), int(end)) for start, end in ours["spans"]]
        run = _Run(spans, [int(start) for start in ours["starts"]], int(ours["n_chars_in"]))
        is_of_text = ours["n_chars_out"] == n_chars and len(run.starts) == len(spans)
    except (KeyError, TypeError, ValueError, OverflowError):  # no run, or whatever else stands under the key
        return None
    borders = [border for span in spans for border in span]
    places = [place for start, span in zip(run.starts, spans, strict=False) for place in (start, start + _length(span))]
    return run if is_of_text and _ascend(borders, run.n_chars_in) and _ascend(places, n_chars) else None


def _traced(span: Span, run: _Run) -> Iterator[tuple[Span, int]]:
    """The stretches of the source that a span of the kept text shows, and where in the span each begins."""
    for i in range(max(0, bisect_right(run.starts, span.start) - 1), bisect_left(run.starts, span.end)):
        source, begin = run.spans[i], run.starts[i]
        low, high = max(span.start, begin), min(span.end, begin + _length(source))
        if low < high:
            yield Span(source.start + low - begin, source.start + high - begin), low - span.start


def _ascend(borders: Sequence[int], last: int) -> bool:
    return all(a <= b for a, b in pairwise([0, *borders, last]))


def _length(span: Span) -> int:
    return span.end - span.start
