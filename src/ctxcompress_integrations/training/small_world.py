"""``ctxcompress train small-world``: the small reader and the summarizers that write for it, from MiniLM alone.

Looking a value up by its key does not come from questions alone: a model that reads typed values does best by guessing
among two, and stays there. It comes from telling a listing's facts again in another order, which takes the very circuit
that questions need (which value belongs to which name). So the reader learns in lessons that build on each other:

1. *listings*: copying short listings, then telling them in another order;
2. *text*: documents of the trained domains, from full text, with several passages in the end;
3. *superposed*: the same from sums of two word vectors, then of three, up to those of a sentence, which nobody has to
   learn to write (:mod:`~ctxcompress_integrations.training.superposed`); a part of the passages stays text henceforth;
4. *vectors*: the reader, and the summarizers whose encoder it is. They write such sums first, and questions ask for
   names by their values, too: from questions for values alone they hardly learn the names that tell two entities apart.
   In the end prompts show several passages that resemble each other, as those do that an index finds;
5. *icae* and *icformer*: each on the reader as it is now, which learns no more. They write what its own summarizer
   writes first.

Every lesson is a run of its own that resumes from its checkpoint, and none is done twice. Telling facts in another
order comes suddenly, with some seeds late, and without it later lessons teach little: listings are taught until it has
come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctxcompress_integrations.hf import small_world, summary_weights
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import SMALL_WORLD, load_encoder, load_small_world
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training import small_world_studies as studies
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.checkpoint import check_recipe
from ctxcompress_integrations.training.exact import exact_match
from ctxcompress_integrations.training.lessons import Study
from ctxcompress_integrations.training.loop import Progress, TrainingError, finish, plain
from ctxcompress_integrations.training.processes import on_main
from ctxcompress_integrations.training.small_world_plan import N_VECTORS, PARTS, RANK, RATIO, TOGETHER, Plan
from ctxcompress_integrations.training.soft import train_soft
from ctxcompress_integrations.training.start import untrained
from ctxcompress_integrations.training.superposed import Superposed, WordWeights

ABOUT = "a demonstration on synthetic text: it knows a small invented world, and of nothing else can it be asked"
"""What every card says."""
LEARNED, MOST_ROUNDS = 0.05, 4
"""Nats of a listing's answer, at most, where facts are told and not guessed (about 1), and how often that is tried."""
N_AMONG = 3
"""Passages of the second dev measure, each question among documents like the right one."""
ANEW = 1_000_003
"""Between the seeds of two rounds: the second sees other listings."""


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
        documents = list(world.documents(world.TRAINED, "dev", 10 * n_dev))
        self.dev, self.among = studies.asked(documents[:n_dev]), studies.among(documents, N_AMONG, n_dev)

    def path(self, part: str) -> Path:
        """Of the file of a part: "reader", or one of :data:`PARTS`."""
        return part_file(self.folder, part)

    def train(self) -> None:
        """All lessons that are not done yet.

        Raises:
            ValueError: the folder has files of another plan.
            TrainingError: listings that are not learned in as many rounds as are tried.
        """
        self._check_plan()
        before = self._listed()
        for lesson in ("text", "superposed"):
            if not self._of(lesson).exists():
                self._reader_alone(lesson, before)
            before = self._of(lesson)
        if not self.path("reader").exists():
            self._together()
        for part in PARTS:
            if not self.path(part).exists():
                self._alone(part)

    def _check_plan(self) -> None:
        """``ValueError`` for what another plan has made: it would be taken for this one's."""
        for file in self._readers():
            if file.exists():
                check_recipe(file, small_world.card_of(file).get("plan", {}), plain(self.plan))
        for part in PARTS:
            if (file := self.path(part)).exists():
                check_recipe(file, summary_weights.read(file, method=part).card.get("plan", {}), plain(self.plan))

    def _readers(self) -> list[Path]:
        """Where the reader lies after each lesson, and in the end."""
        listings = [self._of("listings", number) for number in range(MOST_ROUNDS)]
        return [*listings, self._of("text"), self._of("superposed"), self.path("reader")]

    def _of(self, lesson: str, number: int = 0) -> Path:
        return self.folder / f"{lesson}{f'-{number}' if number else ''}.safetensors"

    def _listed(self) -> Path:
        """The reader that has learned the listings, in as many rounds as it took."""
        before = None
        for number in range(MOST_ROUNDS):
            file = self._of("listings", number)
            if not file.exists():
                self._reader_alone("listings", before, number)
            if small_world.card_of(file)["losses"]["answer"] <= LEARNED:
                return file
            before = file
        raise TrainingError(
            f"after {MOST_ROUNDS} rounds of listings the loss of their answers is still above {LEARNED}: take another "
            "seed, or more steps"
        )

    def _reader_alone(self, lesson: str, before: Path | None, number: int = 0) -> None:
        """One lesson, or the round ``number`` of it, from the weights ``before``."""
        encoder, tokenizer = load_encoder(device="cpu", dtype="float32")
        if before is None:
            reader = small_world.as_decoder(encoder, tokenizer)
        else:
            reader, tokenizer = load_small_world(before, dtype="float32")
        make = {"listings": studies.listings, "text": studies.documents, "superposed": studies.told}[lesson]
        given = make(reader, tokenizer)
        writers = {lesson: _superposed(reader, tokenizer, given)} if lesson == Superposed.name else {}
        file = self._of(lesson, number)
        seen = self._run(lesson, reader, tokenizer, given, writers, number=number)
        card = {"plan": plain(self.plan), "losses": seen.losses[-1][1], "dev": seen.dev[-1][1]}
        base_sha256 = weights_digest(encoder)
        on_main(lambda: small_world.save(reader, file, base="mini", base_sha256=base_sha256, card=card))
        finish(file)

    def _together(self) -> None:
        encoder, _ = load_encoder(device="cpu", dtype="float32")
        reader, tokenizer = load_small_world(self._of("superposed"), dtype="float32")
        writers = {part: self._untrained(part, reader, tokenizer) for part in TOGETHER}
        given = studies.told(reader, tokenizer, both_ways=True)
        seen = self._run("vectors", reader, tokenizer, given, writers, _superposed(reader, tokenizer, given))
        for part, writer in self._anew(writers).items():
            self._save(part, writer, self._card("vectors", seen))
        card = self._card("vectors", seen)
        file, base_sha256 = self.path("reader"), weights_digest(encoder)
        on_main(lambda: small_world.save(reader, file, base="mini", base_sha256=base_sha256, card=card))
        finish(self._of("vectors"))

    def _alone(self, part: str) -> None:
        reader, tokenizer = load_small_world(self.path("reader"), dtype="float32")
        writer = self._untrained(part, reader, tokenizer)
        held = summary_weights.read(self.path("autocompressor"), method="autocompressor")
        example = AutoCompressor.restored(held, reader, tokenizer, {})
        if isinstance(writer, Icae):  # it starts as the reader's own writer, without its adapter
            with torch.no_grad():
                writer.module.memory.copy_(example.module.tokens)
        given = studies.told(reader, tokenizer, both_ways=True)
        seen = self._run(part, reader, tokenizer, given, {part: writer}, example)
        self._save(part, writer, self._card(part, seen))
        finish(self._of(part))

    def _untrained(self, part: str, reader: Any, tokenizer: Any) -> TokenSummarizer[Any]:
        seed = self.plan.seed
        made = untrained(part, reader, tokenizer, n_vectors=N_VECTORS, ratio=RATIO, rank=RANK, seed=seed)
        own: dict[str, dict[str, Any]] = {"autocompressor": {"prefix": "empty"}, "icae": {"has_bos": False}}
        return made.changed(align="sentences", **own.get(part, {}))

    @staticmethod
    def _anew(writers: Mapping[str, TokenSummarizer[Any]]) -> dict[str, TokenSummarizer[Any]]:
        """The same modules, for their reader as it is now: digests are taken once, and it may have learned since."""
        return {
            part: w.changed(reader=weights_digest(w.model)) if isinstance(w, Pooled) else w.changed()
            for part, w in writers.items()
        }

    def _run(
        self,
        lesson: str,
        reader: Any,
        tokenizer: Any,
        given: Sequence[Study],
        writers: Mapping[str, TokenSummarizer[Any]],
        example: TokenSummarizer[Any] | None = None,
        *,
        number: int = 0,
    ) -> Progress:
        recipe = self.plan.recipe(lesson)

        def measure() -> dict[str, float]:
            asks = HFReader(reader, tokenizer, max_batch=32)
            exact = partial(exact_match, asks, max_new_tokens=4)
            found = {} if lesson in PARTS else {"text": exact(self.dev), f"text, {N_AMONG} passages": exact(self.among)}
            for part, w in self._anew(writers).items():
                found[part] = exact(self.dev, summarize=w.summarize)
                found[f"{part}, {N_AMONG} passages"] = exact(self.among, summarize=w.summarize)
            return found

        return train_soft(
            reader,
            tokenizer,
            given,
            self._of(lesson, number),
            replace(recipe, seed=recipe.seed + number * ANEW),
            summarizers=tuple(writers.values()),
            example=example,
            measure=measure,
            report=lambda seen: self.report(lesson, seen),
        )

    def _save(self, part: str, writer: TokenSummarizer[Any], card: Mapping[str, Any]) -> None:
        """In half the bytes: models are run in bf16 where they can be, and identities are digests of bf16 values."""
        writer.module.to(torch.bfloat16)
        on_main(lambda: writer.save(self.path(part), card=card))

    def _card(self, lesson: str, seen: Progress) -> dict[str, Any]:
        made = {"lesson": lesson, "plan": plain(self.plan), "seconds": round(seen.seconds), "dev": seen.dev[-1][1]}
        return {"about": ABOUT, "base": "all-MiniLM-L6-v2", "license": "Apache-2.0", **made}


def _superposed(reader: Any, tokenizer: Any, given: Sequence[Study]) -> Superposed:
    """Sums of a sentence's words, weighted by what the studies say again and again."""
    words = WordWeights.counted((study.text for study in given), tokenizer, len(reader.get_input_embeddings().weight))
    return Superposed(reader, tokenizer, words, segment_tokens=RATIO)


def part_file(folder: Path, part: str) -> Path:
    """Of a part: "reader", or one of :data:`PARTS`."""
    return folder / f"{SMALL_WORLD}-{part}.safetensors"
