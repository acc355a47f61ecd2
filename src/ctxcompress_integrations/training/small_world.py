"""``ctxcompress train small-world``: the small reader and the summarizers that write for it, from MiniLM alone.

Looking a value up by its key does not come from questions alone: a model that reads typed values does best by guessing
among two, and stays there. It comes from telling a listing's facts again in another order, which takes the very circuit
that questions need (which value belongs to which name). So the reader learns in lessons that build on each other:

1. *listings*: copying short listings, then telling them in another order;
2. *text*: documents of the trained domains, from full text, with several passages in the end;
3. *vectors*: the reader and three summarizers together, on single facts, then on a few, then on documents; a part of
   the passages stays text. The ratio tightens from 4;
4. *icae* and *icformer*: each on the reader as it is now, which learns no more.

Every lesson is a run of its own that resumes from its checkpoint, and none is done twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf import small_world
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import SMALL_WORLD, load_encoder, load_small_world
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.exact import exact_match
from ctxcompress_integrations.training.lessons import Mix, Study
from ctxcompress_integrations.training.loop import Progress, finish, plain
from ctxcompress_integrations.training.soft import Recipe, Stage, train_soft
from ctxcompress_integrations.training.start import untrained
from ctxcompress_integrations.training.world import Document

PARTS = {
    "autocompressor": ("autocompressor", 1, 13),
    "autocompressor-20": ("autocompressor", 1, 20),
    "pooled": ("pooled", 1, 12),
    "icae": ("icae", 2, 13),
    "icformer": ("icformer", 2, 13),
}
"""Files of summarizers: method, vectors per segment, tokens per vector of the longest segment."""
TOGETHER = ("autocompressor", "autocompressor-20", "pooled")
"""Those that learn with the reader, which is their encoder; the first alone until the reader can read vectors."""
N_LISTINGS, N_RETOLD, N_SHORT, N_DOCUMENTS = 20_000, 8_000, 12_000, 20_000
N_TELLINGS = 2
RANK = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each lesson takes, and how: the file that ships was made with these."""

    copying: int = 200
    telling: int = 350
    text: int = 450
    vectors: int = 1200
    icae: int = 400
    icformer: int = 800
    batch: int = 16
    seed: int = 0

    @property
    def lessons(self) -> tuple[str, ...]:
        """In their order."""
        return ("listings", "text", "vectors", *(part for part in PARTS if part not in TOGETHER))

    def recipe(self, lesson: str) -> Recipe:
        """Of a lesson by name: "listings", "text", "vectors" or a summarizer's."""
        make: Callable[[], Recipe] = getattr(self, f"_{lesson}")
        return replace(make(), batch=self.batch, seed=self.seed, precision="bf16", warm_up=50, eval_every=50)

    def _listings(self) -> Recipe:
        copying = Mix(text_share=1.0, autoencode=0.7)
        telling = Mix(text_share=1.0, autoencode=0.0, retelling=0.8)
        return Recipe((Stage(self.copying, copying), Stage(self.telling, telling)), reader_lr=3e-4, decay=0.1)

    def _text(self) -> Recipe:
        one, several = (Mix(text_share=1.0, autoencode=0.05, n_questions=6, n_passages=n) for n in (1, 3))
        weights = {"answer": 1.0, "autoencode": 0.3}
        short, long, many = (round(self.text * share) for share in (0.1, 0.7, 0.2))
        stages = (
            Stage(short, replace(one, max_tokens=64), weights=weights),
            Stage(long, one, weights=weights),
            Stage(many, several, weights=weights),
        )
        return Recipe(stages, reader_lr=2e-4, decay=0.3)

    def _vectors(self) -> Recipe:
        telling = Mix(text_share=0.05, autoencode=1.0, retelling=0.4)
        asking = Mix(text_share=0.15, autoencode=0.0, retelling=0.3, n_questions=6)
        one, few = replace(telling, max_tokens=12, retelling=0.0), replace(telling, max_tokens=30)
        more, several = replace(telling, max_tokens=48), replace(asking, n_passages=3)
        shares = ((0.04, one, 4, 1), (0.06, few, 4, 1), (0.06, few, 8, 1), (0.15, few, None, None))
        on_listings = [
            Stage(round(self.vectors * share), mix, ratio, n_summarizers, N_RETOLD)
            for share, mix, ratio, n_summarizers in (*shares, (0.15, more, None, None))
        ]
        then = [Stage(round(self.vectors * share), mix) for share, mix in ((0.4, asking), (0.14, several))]
        return Recipe((*on_listings, *then), lr=1e-3, reader_lr=2.5e-4, decay=0.4)

    def _icae(self) -> Recipe:
        return self._alone(self.icae)

    def _icformer(self) -> Recipe:
        return self._alone(self.icformer)

    def _alone(self, steps: int) -> Recipe:
        mix, weights = Mix(autoencode=0.0, retelling=0.3, n_questions=6), {"answer": 1.0, "retell": 0.5}
        short = round(steps * 0.2)
        stages = (
            Stage(short, replace(mix, max_tokens=64), weights=weights),
            Stage(steps - short, mix, weights=weights),
        )
        return Recipe(stages, lr=1e-3, decay=0.4)


class SmallWorld:
    """A folder in which reader and summarizers come to be.

    Args:
        folder: where their files, curves and checkpoints stand.
        plan: how they are made.
        report: told the lesson's name and its progress after every step.
        n_dev: documents of each dev measure.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        report: Callable[[str, Progress], None] = lambda *_: None,
        n_dev: int = 100,
    ) -> None:
        self.folder, self.plan, self.report = folder, plan, report
        self.dev = asked(world.documents(world.TRAINED, "dev", n_dev))
        self.unseen = asked(world.documents(world.HELD_OUT, "dev", n_dev // 2))

    def path(self, part: str) -> Path:
        """Of the file of a part: "reader", or one of :data:`PARTS`."""
        return part_file(self.folder, part)

    def train(self) -> None:
        """All lessons that are not done yet."""
        for lesson in ("listings", "text"):
            if not self._of(lesson).exists():
                self._reader_alone(lesson)
        if not self.path("reader").exists():
            self._together()
        for part in PARTS:
            if not self.path(part).exists():
                self._alone(part)

    def _of(self, lesson: str) -> Path:
        return self.folder / f"{lesson}.safetensors"

    def _reader_alone(self, lesson: str) -> None:
        encoder, tokenizer = load_encoder(device="cpu", dtype="float32")
        if lesson == "listings":
            reader = small_world.as_decoder(encoder, tokenizer)
        else:
            reader, tokenizer = load_small_world(self._of("listings"), dtype="float32")
        studies = _listings if lesson == "listings" else _documents
        self._run(lesson, reader, tokenizer, studies(reader, tokenizer), {})
        small_world.save(reader, self._of(lesson), base="mini", base_sha256=weights_digest(encoder), card={})
        finish(self._of(lesson))

    def _together(self) -> None:
        encoder, _ = load_encoder(device="cpu", dtype="float32")
        reader, tokenizer = load_small_world(self._of("text"), dtype="float32")
        writers = {part: self._untrained(part, reader, tokenizer) for part in TOGETHER}
        studies = [*_facts(reader, tokenizer), *_documents(reader, tokenizer, n_tellings=N_TELLINGS)]
        seen = self._run("vectors", reader, tokenizer, studies, writers)
        for part, writer in self._anew(writers).items():
            self._save(part, writer, self._card("vectors", seen))
        card = self._card("vectors", seen)
        small_world.save(reader, self.path("reader"), base="mini", base_sha256=weights_digest(encoder), card=card)
        finish(self._of("vectors"))

    def _alone(self, part: str) -> None:
        reader, tokenizer = load_small_world(self.path("reader"), dtype="float32")
        writer = self._untrained(part, reader, tokenizer)
        studies = _documents(reader, tokenizer, n_tellings=N_TELLINGS)
        seen = self._run(part, reader, tokenizer, studies, {part: writer})
        self._save(part, writer, self._card(part, seen))
        finish(self._of(part))

    def _untrained(self, part: str, reader: Any, tokenizer: Any) -> TokenSummarizer[Any]:
        method, n_vectors, ratio = PARTS[part]
        seed = self.plan.seed
        return untrained(method, reader, tokenizer, n_vectors=n_vectors, ratio=ratio, rank=RANK, seed=seed)

    def _anew(self, writers: Mapping[str, TokenSummarizer[Any]]) -> dict[str, TokenSummarizer[Any]]:
        """The same modules, for their reader as it is now: digests are taken once, and it may have learned since."""
        made = {part: self._untrained(part, writer.model, writer.tokenizer) for part, writer in writers.items()}
        for part, writer in writers.items():
            made[part].module = writer.module
        return made

    def _run(
        self,
        lesson: str,
        reader: Any,
        tokenizer: Any,
        studies: Sequence[Study],
        writers: Mapping[str, TokenSummarizer[Any]],
    ) -> Progress:
        def measure() -> dict[str, float]:
            asks = HFReader(reader, tokenizer, max_batch=32)
            exact = partial(exact_match, asks, self.dev, max_new_tokens=4)
            found = {} if len(writers) == 1 else {"text": exact()}
            return found | {part: exact(summarize=w.summarize) for part, w in self._anew(writers).items()}

        return train_soft(
            reader,
            tokenizer,
            studies,
            self._of(lesson),
            self.plan.recipe(lesson),
            summarizers=tuple(writers.values()),
            measure=measure,
            report=lambda seen: self.report(lesson, seen),
        )

    def _save(self, part: str, writer: TokenSummarizer[Any], card: Mapping[str, Any]) -> None:
        """In half the bytes: models are run in bf16 where they can be, and identities are digests of bf16 values."""
        writer.module.to(torch.bfloat16)
        writer.save(self.path(part), card=card)

    def _card(self, lesson: str, seen: Progress) -> dict[str, Any]:
        return {"lesson": lesson, "plan": plain(self.plan), "seconds": round(seen.seconds), "dev": seen.dev[-1][1]}


def part_file(folder: Path, part: str) -> Path:
    """Of a part: "reader", or one of :data:`PARTS`."""
    return folder / f"{SMALL_WORLD}-{part}.safetensors"


def asked(documents: Iterable[Document]) -> list[Example]:
    """One question of each document, in turn of its facts."""
    return [one.examples[i % len(one.examples)] for i, one in enumerate(documents)]


def _listings(reader: Any, tokenizer: Any) -> list[Study]:
    return [_listed(reader, tokenizer, one) for one in _made(N_LISTINGS)]


def _facts(reader: Any, tokenizer: Any) -> list[Study]:
    """Beginnings of listings: half of them of one fact or two."""
    draw = random.Random("facts")
    sizes = (1, 1, 2, 2, 3, 3, 4, 5, 6, 8)
    return [_listed(reader, tokenizer, one.beginning(draw.choice(sizes))) for one in _made(N_RETOLD)]


def _made(n: int) -> Iterator[Document]:
    kinds = world.TRAINED
    return (world.listing(kinds[i % len(kinds)], i // len(kinds)) for i in range(n))


def _listed(reader: Any, tokenizer: Any, one: Document) -> Study:
    return Study(
        one.text,
        Splicer(reader.get_input_embeddings(), tokenizer).count(one.text),
        tuple((f"What is the {f.attribute.name} of {f.name}?", f.value) for f in one.facts),
        tuple(one.listed(number) for number in range(N_TELLINGS)),
    )


def _documents(reader: Any, tokenizer: Any, *, n_tellings: int = 0) -> list[Study]:
    """Short documents about two entities, every fact by name, and all others."""
    splicer = Splicer(reader.get_input_embeddings(), tokenizer)
    short = (one for one in world.documents(world.TRAINED, "train", N_SHORT, n_facts=2) if _is_plain(one))
    rest = world.documents(world.TRAINED, "train", N_DOCUMENTS, first=N_SHORT)
    return [
        Study(
            one.text,
            splicer.count(one.text),
            tuple((example.question, example.answers[0]) for example in one.examples),
            tuple(one.listed(number) for number in range(n_tellings)),
        )
        for one in chain(short, rest)
    ]


def _is_plain(one: Document) -> bool:
    """About two entities, each sentence with the name before the value."""
    return len({fact.name for fact in one.facts}) == 2 and all(_names_first(one, fact) for fact in one.facts)


def _names_first(one: Document, fact: Any) -> bool:
    start = max(0, one.text.rfind(". ", 0, fact.start))
    return fact.name in one.text[start : fact.start]
