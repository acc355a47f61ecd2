"""What the documents of the small world are made of: attributes, and domains that have some."""

from __future__ import annotations

from typing import NamedTuple


class Attribute(NamedTuple):
    """What can be said and asked of an entity.

    Attributes:
        values: of which a fact takes one, all equally likely.
        statements: with ``{n}`` and ``{v}``.
        questions: with ``{n}``.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


class Domain(NamedTuple):
    """One kind of document.

    Attributes:
        alias: what a document about one entity may call it after its first mention; None for its name alone.
        distractors: sentences without a fact; ``{n}`` may stand in them.
        is_trained: False for a domain that shipped weights have never seen.
    """

    name: str
    alias: str | None
    attributes: tuple[Attribute, ...]
    distractors: tuple[str, ...]
    is_trained: bool = True
