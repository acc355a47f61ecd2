"""What the small reader and its summarizers learn on: passages of the small world, with questions and tellings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.lessons import Study
from ctxcompress_integrations.training.world import Document, Fact

N_LISTINGS, N_BEGINNINGS, N_SHORT, N_DOCUMENTS = 20_000, 20_000, 12_000, 20_000
N_TELLINGS = 2


def asked(documents: Iterable[Document]) -> list[Example]:
    """One question of each document, in turn of its facts."""
    return [one.examples[i % len(one.examples)] for i, one in enumerate(documents)]


def among(documents: Sequence[Document], n: int, n_asked: int) -> list[Example]:
    """The first questions of :func:`asked`, each with ``n - 1`` other documents around the right one, of the same
    domain and with names like its own: what an index finds together.
    """
    return [_among(i, example, documents, n) for i, example in enumerate(asked(documents[:n_asked]))]


def _among(i: int, example: Example, documents: Sequence[Document], n: int) -> Example:
    draw, right = random.Random(f"among/{i}/{n}"), documents[i]
    others = [one for one in documents if one.domain == right.domain and one.id != right.id]
    draw.shuffle(others)
    others.sort(key=lambda one: -_alike(one, right))
    shown = [*others[: n - 1], right]
    draw.shuffle(shown)
    return replace(example, passages=tuple(one.passage for one in shown), marked=())


def _alike(one: Document, other: Document) -> int:
    """Words that their names share."""
    first, second = ({word for fact in each.facts for word in fact.name.split()} for each in (one, other))
    return len(first & second)


def listings(reader: Any, tokenizer: Any) -> list[Study]:
    """What is easiest to look up."""
    return [_listed(reader, tokenizer, one) for one in _made(N_LISTINGS)]


def told(reader: Any, tokenizer: Any, *, both_ways: bool = False) -> list[Study]:
    """What vectors are learned on: beginnings of listings, two to six facts long, and documents, with tellings.

    Args:
        reader, tokenizer: to count with.
        both_ways: asks for names by their values, too: without that summarizers hardly keep the names.
    """
    draw = random.Random("beginnings")
    begun = [one.beginning(draw.randint(2, 6)) for one in _made(N_BEGINNINGS)]
    listed = [_listed(reader, tokenizer, one, both_ways=both_ways) for one in begun]
    return [*listed, *documents(reader, tokenizer, n_tellings=N_TELLINGS, both_ways=both_ways)]


def _made(n: int) -> Iterator[Document]:
    kinds = world.TRAINED
    return (world.listing(kinds[i % len(kinds)], i // len(kinds)) for i in range(n))


def _listed(reader: Any, tokenizer: Any, one: Document, *, both_ways: bool = False) -> Study:
    by_name = [(f"What is the {f.attribute.name} of {f.name}?", f.value) for f in one.facts]
    return Study(
        one.text,
        Splicer(reader.get_input_embeddings(), tokenizer).count(one.text),
        (*by_name, *(_by_value(one) if both_ways else [])),
        tuple(one.listed(number) for number in range(N_TELLINGS)),
    )


def documents(reader: Any, tokenizer: Any, *, n_tellings: int = 0, both_ways: bool = False) -> list[Study]:
    """Short documents about two entities, every fact by name, and all others."""
    splicer = Splicer(reader.get_input_embeddings(), tokenizer)
    short = (one for one in world.documents(world.TRAINED, "train", N_SHORT, n_facts=2) if _is_plain(one))
    rest = world.documents(world.TRAINED, "train", N_DOCUMENTS, first=N_SHORT)
    return [
        Study(
            one.text,
            splicer.count(one.text),
            (*((e.question, e.answers[0]) for e in one.examples), *(_by_value(one) if both_ways else [])),
            tuple(one.listed(number) for number in range(n_tellings)),
            _shelf(i, one),
        )
        for i, one in enumerate(chain(short, rest))
    ]


def _shelf(i: int, one: Document) -> str:
    """Of a domain's documents whose entities share the first or the second word of their names, in turn."""
    return f"{one.domain}/{one.facts[0].name.split()[i % 2]}"


def _by_value(one: Document) -> list[tuple[str, str]]:
    """Questions for the names of a document, where only one fits."""
    times = Counter((fact.attribute.name, fact.value) for fact in one.facts)
    return [
        (f"Whose {fact.attribute.name} is {fact.value}?", fact.name)
        for fact in one.facts
        if times[fact.attribute.name, fact.value] == 1
    ]


def _is_plain(one: Document) -> bool:
    """About two entities, each sentence with the name before the value."""
    return len({fact.name for fact in one.facts}) == 2 and all(_names_first(one, fact) for fact in one.facts)


def _names_first(one: Document, fact: Fact) -> bool:
    start = max(0, one.text.rfind(". ", 0, fact.start))
    return fact.name in one.text[start : fact.start]
