"""What a host's document or node says of the compressions that it went through, under one key of its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

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
        of_source, begins, n_chars = earlier
        traced = [
            (Span(source.start + low - begin, source.start + high - begin), start + low - span.start)
            for span, start in zip(spans, starts, strict=True)
            for source, begin in zip(of_source, begins, strict=True)
            if (low := max(span.start, begin)) < (high := min(span.end, begin + source.end - source.start))
        ]
        spans, starts = [span for span, _ in traced], [start for _, start in traced]
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
    lengths = [end - start for start, end in passage.spans]
    gaps = [
        int(any(map(str.isspace, passage.original[before.end : after.start])))
        for before, after in pairwise(passage.spans)
    ]
    n_between = len(passage.text) - sum(lengths)
    if gaps and n_between != sum(gaps):
        gaps = [n_between // len(gaps)] * len(gaps)  # a joiner that was asked for, always the same
    return list(accumulate((length + gap for length, gap in zip(lengths, gaps, strict=False)), initial=0))


def _earlier(metadata: Mapping[str, Any], n_chars: int) -> tuple[Sequence[Span], Sequence[int], int] | None:
    """Spans, starts and ``n_chars_in`` of an earlier run, when it left the ``n_chars`` characters that are here now."""
    ours: Any = metadata.get(KEY)
    try:
        spans = [Span(int(start), int(end)) for start, end in ours["spans"]]
        starts = [int(start) for start in ours["starts"]]
        n_chars_in, is_ours = int(ours["n_chars_in"]), len(starts) == len(spans) and ours["n_chars_out"] == n_chars
    except (KeyError, TypeError, ValueError):  # no run, or whatever else stands under the key
        return None
    return (spans, starts, n_chars_in) if is_ours else None
