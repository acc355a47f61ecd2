"""What two sets share: questions, and passages that support an answer, compared by their letters and digits alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.evaluation.jsonl import DatasetError


@lru_cache(4096)
def bare(text: str) -> str:
    """``text`` in its compatibility form (NFKC), without case, white space and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def apart(dataset: Dataset, others: Iterable[Example], *, passages: bool = False) -> Dataset:
    """The examples of ``dataset`` whose question is in none of ``others``.

    Args:
        dataset: what is thinned out.
        others: what it must not share.
        passages: whether examples go, too, that share a passage which supports an answer.

    Raises:
        DatasetError: none is left.
    """
    others = list(others)
    asked = {bare(example.question) for example in others}
    read = {text for example in others for text in _supporting(example)} if passages else set()
    examples = tuple(
        example
        for example in dataset.examples
        if bare(example.question) not in asked and not (read and read & _supporting(example))
    )
    if not examples:
        raise DatasetError(f"every example of {dataset.name} stands in a set that it must be apart from")
    return replace(dataset, examples=examples)


def _supporting(example: Example) -> set[str]:
    places = {stretch.passage for stretch in (*example.marked, *example.gold)}
    return {bare(example.passages[place].text) for place in places}
