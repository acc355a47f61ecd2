"""The vectors of retrieved passages: out of the index, or made when the question comes where the index has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctxcompress_integrations.index.building import Summarizes
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.records import Passage, SummaryVectors


def vectors_for(
    passages: Sequence[Passage],
    index: CompressedIndex | None,
    fingerprint: str | None,
    *,
    device: Any = None,
    on_miss: Summarizes | None = None,
) -> dict[str, SummaryVectors]:
    """Vectors by passage id; passages that have none are left out, and blank ones.

    Args:
        passages: with the ids of the index, each once.
        index: that holds vectors; None without one.
        fingerprint: of the summarizer that made those of the index; None to read none of them.
        device: a torch device to bring them to; None for arrays.
        on_miss: summarizer for passages that the index has no vectors for: new or changed since the build. IC-Former is
            the one that is cheap enough.

    Raises:
        SummaryMismatchError: the index holds summaries of other summarizers only.
    """
    asked = [passage for passage in passages if passage.text.strip()]
    found: dict[str, SummaryVectors] = {}
    if index is not None and fingerprint is not None:
        ids = [passage.id for passage in asked]
        found = {s.id: s for s in index.summaries(ids, fingerprint, device=device, skip_missing=True)}
    missing = [passage for passage in asked if passage.id not in found]
    if on_miss is not None and missing:
        found |= {summary.id: summary for summary in on_miss.summarize(missing)}
    return found
