"""Passages on their way into the store: checked, hashed, metadata as JSON text.

Knows nothing of where the rows go.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ctxcompress_integrations._numbers import as_python
from ctxcompress_integrations.records import Passage

MAX_BITS = 10_000
"""Of a whole number in metadata: longer ones Python writes no digits of."""


class Row(NamedTuple):
    """A passage as it is stored; ``metadata`` is JSON text."""

    id: str
    text: str
    text_sha256: str
    metadata: str


class Stored(NamedTuple):
    """What must be known of a stored passage to see whether another one with its id changes it."""

    internal: int
    text_sha256: str
    metadata: str


def to_rows(passages: Iterable[Passage]) -> list[Row]:
    """Rows of passages.

    Raises:
        ValueError: not a passage, an id given twice, text that is no valid Unicode, metadata that JSON cannot hold; the
            message names the id, and the key of the metadata.
    """
    rows, seen = [], set()
    for passage in passages:
        row = _row(passage)
        if row.id in seen:
            raise ValueError(f"the id {row.id!r} is given twice: keep one passage for each id")
        seen.add(row.id)
        rows.append(row)
    return rows


def sorted_out(
    rows: Iterable[Row], stored: Mapping[str, Stored], *, is_forced: bool
) -> tuple[list[Row], dict[str, str]]:
    """What of ``rows`` needs a new vector, and the metadata by id of what differs in nothing else.

    Args:
        is_forced: all of them need one.
    """
    new: list[Row] = []
    metadata: dict[str, str] = {}
    for row in rows:
        known = stored.get(row.id)
        if is_forced or known is None or known.text_sha256 != row.text_sha256:
            new.append(row)
        elif known.metadata != row.metadata:
            metadata[row.id] = row.metadata
    return new, metadata


def text_sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal: the key under which its vectors and summaries are its own."""
    return hashlib.sha256(text.encode()).hexdigest()


def _row(passage: Any) -> Row:
    if not isinstance(passage, Passage):
        raise ValueError(f"expected a Passage(id=..., text=...), got {passage!r:.80}")
    if not isinstance(passage.id, str) or not passage.id or not is_unicode(passage.id):
        raise ValueError(f"the id of a passage must be a non-empty str of valid Unicode, got {passage.id!r}")
    if not isinstance(passage.text, str) or not is_unicode(passage.text):
        raise ValueError(f"the text of {passage.id!r} must be a str of valid Unicode, got {passage.text!r:.80}")
    return Row(passage.id, passage.text, text_sha256(passage.text), _metadata_json(passage.id, passage.metadata))


def _metadata_json(id_: str, metadata: Any) -> str:
    if not isinstance(metadata, Mapping):
        raise ValueError(f"the metadata of {id_!r} must be a mapping, got {metadata!r:.80}")
    for key, value in metadata.items():
        if not isinstance(key, str) or not is_unicode(key):
            raise ValueError(f"the metadata of {id_!r} has the key {key!r}: keys must be str of valid Unicode")
        if not _is_json(value):
            raise ValueError(
                f"the metadata of {id_!r} holds under {key!r} what JSON cannot: {value!r:.80}; use texts, finite "
                "numbers, True, False, None, and lists and str-keyed dicts of them"
            )
    return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"), default=as_python)


def _is_json(value: Any, depth: int = 0) -> bool:
    value = as_python(value)
    if isinstance(value, str):
        return is_unicode(value)
    if value is None:
        return True
    if isinstance(value, int):
        return value.bit_length() <= MAX_BITS
    if isinstance(value, float):
        return math.isfinite(value)
    if depth > 100:  # also a list that holds itself
        return False
    if isinstance(value, list | tuple):
        return all(_is_json(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_unicode(k) and _is_json(v, depth + 1) for k, v in value.items())
    return False


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates, which no file can hold as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
