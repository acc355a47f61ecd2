"""A small invented world whose documents a small model can be asked about: deterministic, endless, in several domains.

A document says four to seven things about one entity or about two that share what is said of them; every question asks
for one value by name and attribute. Values are drawn evenly and on their own: without the document a question can only
be guessed. What a document says is decided by its domain and its number alone. Numbers belong to splits, and so do
names: no entity of one split is heard of in another.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.training.world.domains import DOMAINS, HELD_OUT, TRAINED
from ctxcompress_integrations.training.world.kinds import Attribute, Domain
from ctxcompress_integrations.training.world.words import FIRST, SECOND

__all__ = ["DOMAINS", "HELD_OUT", "SPLITS", "TRAINED", "Document", "document", "documents", "listing", "write"]

Split: TypeAlias = Literal["train", "dev", "test"]
SPLITS: dict[Split, range] = {
    "train": range(1_000_000),
    "dev": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
}
ALIASED = 0.4
"""How often a document about one entity says "the company" where it could name it."""
LISTED = "The {a} of {n} is {v}."
N_SLICES = 8
"""Names are dealt in so many slices: dev gets one, test two, training the rest."""
_SLICES: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4), "dev": (5,), "test": (6, 7)}


class Fact(NamedTuple):
    """One thing that a document says: of whom, what, and where in its text the value stands."""

    name: str
    attribute: Attribute
    value: str
    start: int


@dataclass(frozen=True, slots=True)
class Document:
    """One document and all that can be asked about it."""

    id: str
    text: str
    facts: tuple[Fact, ...]

    @property
    def domain(self) -> str:
        """Name of the domain that it is from."""
        return self.id.split("-")[0]

    @property
    def passage(self) -> Passage:
        """For an index."""
        return Passage(self.id, self.text)

    @property
    def examples(self) -> tuple[Example, ...]:
        """One question per fact, worded as its number decides."""
        return tuple(self._example(i, fact) for i, fact in enumerate(self.facts))

    def told(self, number: int = 0) -> str:
        """All facts again, by name, in an order and in wordings that ``number`` decides; without distractors."""
        draw = random.Random(f"{self.id}/told/{number}")
        facts = draw.sample(self.facts, len(self.facts))
        return " ".join(_said(draw.choice(f.attribute.statements), f.name, f.value)[0] for f in facts)

    def beginning(self, n_facts: int) -> Document:
        """Up to the sentence of its fact of this number, from 1; without distractors behind it."""
        kept = self.facts[:n_facts]
        end = self.text.index(".", kept[-1].start) + 1
        return Document(f"{self.id}-{n_facts}", self.text[:end], kept)

    def listed(self, number: int = 0) -> str:
        """All facts in one plain form, "The founder of Golden Anchor is Laura.", in an order of this number."""
        facts = random.Random(f"{self.id}/listed/{number}").sample(self.facts, len(self.facts))
        return " ".join(LISTED.format(a=f.attribute.name, n=f.name, v=f.value) for f in facts)

    def _example(self, i: int, fact: Fact) -> Example:
        wordings = fact.attribute.questions
        wording = wordings[random.Random(f"{self.id}/{i}").randrange(len(wordings))]
        stretch = Stretch(0, fact.start, fact.start + len(fact.value))
        question = wording.format(n=fact.name)
        return Example(f"{self.id}-{i}", question, (Passage("0", self.text),), (fact.value,), (stretch,))


def document(domain: str, number: int, *, n_facts: int | None = None) -> Document:
    """The document of this number.

    Args:
        domain: one of :data:`DOMAINS`.
        number: from 0; its range in :data:`SPLITS` says where it may be used.
        n_facts: 1 to 7; drawn from 4 to 7 when None. Two entities get no more than six.

    Raises:
        ValueError: an unknown domain, a number of no split, a number of facts that no document has.
    """
    split = next((name for name, numbers in SPLITS.items() if number in numbers), None)
    if domain not in DOMAINS or split is None:
        raise ValueError(f"there is no document {number!r} of the domain {domain!r}; domains: {', '.join(DOMAINS)}")
    if n_facts is not None and not 1 <= n_facts <= 7:
        raise ValueError(f"n_facts must be in [1, 7], got {n_facts!r}")
    of, draw = DOMAINS[domain], random.Random(f"{domain}/{number}")
    n = draw.randint(4, 7) if n_facts is None else n_facts
    n_entities = 1 if n == 1 else 2 if n > len(of.attributes) else draw.choice((1, 2))
    names = [_name(split, domain, number, slot) for slot in range(n_entities)]
    pairs = _pairs(draw, of, names, n)
    said: list[tuple[str, int, tuple[str, Attribute, str] | None]] = []
    values: set[str] = set()
    for i, (name, attribute) in enumerate(pairs):
        value = draw.choice([v for v in attribute.values if v not in values])
        values.add(value)
        called = of.alias if of.alias and n_entities == 1 and i and draw.random() < ALIASED else name
        said.append((*_said(draw.choice(attribute.statements), called, value), (name, attribute, value)))
    for wording in draw.sample(of.distractors, k=draw.randint(0, 2) if n > 2 else 0):
        said.insert(draw.randint(1, len(said)), (*_said(wording, draw.choice(names), ""), None))
    text, facts = "", []
    for sentence, start, fact in said:
        text += " " if text else ""
        if fact is not None:
            facts.append(Fact(*fact, start=len(text) + start))
        text += sentence
    return Document(f"{domain}-{number}", text, tuple(facts))


def listing(domain: str, number: int) -> Document:
    """What is easiest to look up: one or two attributes of two to four entities, all in one plain form."""
    of, draw = DOMAINS[domain], random.Random(f"{domain}/listing/{number}")
    split = next(name for name, numbers in SPLITS.items() if number in numbers)
    names = [_name(split, domain, 2 * number + slot // 2, slot % 2) for slot in range(draw.randint(2, 4))]
    told = []
    for attribute in draw.sample(of.attributes, draw.randint(1, 2)):
        told += list(zip(names, [attribute] * len(names), draw.sample(attribute.values, len(names)), strict=True))
    text, facts = "", []
    for name, attribute, value in draw.sample(told, len(told)):
        text += " " if text else ""
        start = len(text) + len(LISTED.removesuffix("{v}.").format(a=attribute.name, n=name))
        facts.append(Fact(name, attribute, value, start))
        text += LISTED.format(a=attribute.name, n=name, v=value)
    return Document(f"{domain}-listing-{number}", text, tuple(facts))


def documents(
    domains: Iterable[str], split: Split, n: int, *, first: int = 0, n_facts: int | None = None
) -> Iterator[Document]:
    """``n`` documents of a split, the domains in turn, from the split's number ``first`` on."""
    kinds = tuple(domains)
    for i in range(first, first + n):
        yield document(kinds[i % len(kinds)], SPLITS[split][i // len(kinds)], n_facts=n_facts)


def write(path: Path, made: Iterable[Document]) -> int:
    """Questions as JSON lines ``{id, question, context, answers}``, which
    :func:`~ctxcompress_integrations.evaluation.datasets.load_dataset` reads; how many.
    """
    n = 0
    with path.open("w", encoding="utf-8") as file:
        for example in (example for one in made for example in one.examples):
            answers = [{"text": example.answers[0], "start": example.marked[0].start}]
            row = {"id": example.id, "question": example.question, "context": example.passages[0].text}
            file.write(json.dumps(row | {"answers": answers}, ensure_ascii=False) + "\n")
            n += 1
    return n


def _pairs(draw: random.Random, domain: Domain, names: list[str], n: int) -> list[tuple[str, Attribute]]:
    """Of whom and what each sentence speaks; two entities share most of what is said of them."""
    if len(names) == 1:
        return [(names[0], attribute) for attribute in draw.sample(domain.attributes, k=min(n, len(domain.attributes)))]
    shared = draw.sample(domain.attributes, k=(n + 1) // 2)
    pairs = [(name, attribute) for attribute in shared for name in names][:n]
    draw.shuffle(pairs)
    return pairs


def _name(split: Split, domain: str, number: int, slot: int) -> str:
    """Two words. In dev, test and training a domain's names come back after 1,350, 2,700 and 6,750 documents, and reach
    another domain's after a sixth of that.
    """
    slices = _SLICES[split]
    n_kinds, n_names = len(DOMAINS), len(FIRST) * len(SECOND) * len(slices) // N_SLICES
    place = list(DOMAINS).index(domain) * (n_names // n_kinds) + (number - SPLITS[split][0]) * 2 + slot
    place = place * 7919 % n_names  # neighbours in number are none in name
    row, column = divmod(place, len(SECOND) * len(slices) // N_SLICES)
    # a slice holds every eighth second name, shifted by one from first name to first name
    at = column // len(slices) * N_SLICES + (slices[column % len(slices)] + row) % N_SLICES
    return f"{FIRST[row]} {SECOND[at]}"


def _said(wording: str, name: str, value: str) -> tuple[str, int]:
    """The sentence, and where the value stands in it; nowhere, -1, for a distractor."""
    start = wording.format(n=name, v="\0").find("\0")
    said = wording.format(n=name, v=value)
    return said[0].upper() + said[1:], start
