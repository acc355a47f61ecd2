"""``ctxcompress train lloco``: an adapter per corpus that answers from its summaries (LLoCO, arXiv:2404.07979).

Summaries stay as the index holds them; LoRA matrices on the reader's attention learn from (summaries, question) to
answer, as in the paper: rank 8, alpha 16, on queries, keys, values and outputs, learning rate 2e-5 with a cosine, three
epochs. The adapter remembers the fingerprint of the summaries that it read, and the index the adapter, in its manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf.adapters import adapter_digest
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.lora import learning
from ctxcompress_integrations.hf.positions import position_limit
from ctxcompress_integrations.hf.splice import Splicer, vector_rows
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.text.segment import well_formed
from ctxcompress_integrations.training.lessons import Lesson, Shown, Study, Task
from ctxcompress_integrations.training.lloco_course import LlocoCourse, LlocoRecipe, StoredVectors
from ctxcompress_integrations.training.loop import Group, Progress, checkpoint_of, finish, plain, run
from ctxcompress_integrations.training.processes import on_main
from ctxcompress_integrations.training.studies import studies_of
from ctxcompress_integrations.training.teaching import Teaching

CARD = "ctxcompress.json"


class Trained(NamedTuple):
    """What a training saw: questions it learned from, and those it could not use, by the reason."""

    progress: Progress
    n_questions: int
    left_out: Mapping[str, int]


def train_lloco(
    index: CompressedIndex,
    reader: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    out: Path,
    recipe: LlocoRecipe,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train an adapter on the index's summaries, write it as a folder that PEFT reads, and tell the index of it.

    Args:
        index: open for writing in the main process, with summaries made for this reader.
        reader: a decoder LM; it is given back as it was.
        tokenizer: its fast tokenizer.
        examples: questions with answers about passages of the index, found by their text.
        out: the folder; ``out`` + ".checkpoint" holds the state while training, the curves go beside it.
        recipe: how.
        report: told after every step.

    Raises:
        ValueError: ``out`` exists, the usable examples are fewer than a batch, or a checkpoint of another recipe, of
            other lessons or other summaries.
        SummaryMismatchError: the index holds no summaries for this reader.
        TrainingError: a loss that is not a number.
    """
    if out.exists() and not checkpoint_of(out).exists():  # with one it is written, and the index not told yet
        raise ValueError(f"{out} exists already: name another folder, or delete it")
    identity = weights_digest(reader)
    fingerprint = index.fingerprint_for(identity)
    if fingerprint is None:
        raise SummaryMismatchError(
            f"the index holds no summaries for the reader {identity[:12]}...: call index.build_summaries() with a "
            "summarizer made for it"
        )
    splicer = Splicer(reader.get_input_embeddings(), tokenizer)
    stored = _stored(index, fingerprint, reader, {well_formed(p.text) for e in examples for p in e.passages})
    studies, left_out = studies_of(
        examples,
        splicer,
        prompt=recipe.prompt,
        limit=position_limit(reader),
        max_answer=recipe.max_answer,
        n_vectors=lambda text, _: len(stored.get(text, ())),
        as_text=False,
    )
    known = [study for study in studies if study.text in stored]
    if n_unknown := sum(len(s.questions) for s in studies if s.text not in stored):
        left_out["are about a text of which the index holds no summary"] = n_unknown
    lessons = [lesson for study in known for lesson in _lessons(study, recipe.n_questions)]
    if len(lessons) < recipe.batch:
        raise ValueError(
            f"{len(lessons)} lessons can be made of the {len(examples)} questions, a batch takes {recipe.batch}: give "
            f"more, or lower batch (left out: {left_out or 'none'})"
        )
    course = LlocoCourse(recipe, lessons, StoredVectors(stored), fingerprint)
    card = {"fingerprint": fingerprint, "reader": identity, "recipe": plain(recipe), "left_out": left_out}
    progress = _run(reader, splicer, course, out, card, report)
    on_main(lambda: record_adapter(index, out))
    finish(out)
    return Trained(progress, sum(len(lesson.tasks) for lesson in lessons), left_out)


def record_adapter(index: CompressedIndex, folder: Path) -> None:
    """Tell an index which adapter reads its summaries, by the folder's whole path.

    Raises:
        SummaryMismatchError: the adapter learned from other summaries than the index holds.
    """
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    held = {info.fingerprint for info in index.summary_info()}
    if card["fingerprint"] not in held:
        raise SummaryMismatchError(
            f"the adapter {folder} learned from summaries of the fingerprint {card['fingerprint'][:12]}..., the index "
            f"holds {', '.join(f'{one[:12]}...' for one in sorted(held)) or 'none'}; train one on this index"
        )
    index.set_adapter(card["fingerprint"], str(folder.resolve()), adapter_digest(folder))


def _run(
    reader: Any,
    splicer: Splicer,
    course: LlocoCourse,
    out: Path,
    card: Mapping[str, Any],
    report: Callable[[Progress], None],
) -> Progress:
    """Train, and write the adapter's folder."""
    recipe = course.recipe
    torch.manual_seed(recipe.seed)
    wearing = learning(reader, rank=recipe.rank, alpha=recipe.alpha, dropout=recipe.dropout, layers=recipe.layers)
    with wearing as adapted:
        learned = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        learner = Teaching(adapted, splicer, prompt=recipe.prompt, recomputes=recipe.recomputes)
        progress = run(learner, [Group(learned, recipe.lr)], course, out, report=report)
        on_main(lambda: _write(adapted, out, card))
    return progress


def _write(adapted: Any, out: Path, card: Mapping[str, Any]) -> None:
    """The adapter's folder with its card, complete or not at all; one that is there is left as it is."""
    if out.exists():
        return
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    adapted.save_pretrained(str(aside), save_embedding_layers=False)
    (aside / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    aside.replace(out)


def _stored(index: CompressedIndex, fingerprint: str, reader: Any, texts: set[str]) -> dict[str, Tensor]:
    """Vectors ``[m, d]`` by text, of those of ``texts`` that the index has, where the reader is, in its dtype."""
    table = reader.get_input_embeddings().weight
    passages = [p for p in index.get(index.ids()) if p.text.strip() and well_formed(p.text) in texts]
    held = {s.id: s for s in index.summaries([p.id for p in passages], fingerprint, skip_missing=True)}
    found = {well_formed(p.text): held[p.id] for p in passages if p.id in held}
    return {text: vector_rows(summary, table.dtype).to(table.device) for text, summary in found.items()}


def _lessons(study: Study, n_questions: int) -> list[Lesson]:
    tasks = [Task("answer", question, answer) for question, answer in study.questions]
    starts = range(0, len(tasks), n_questions)
    return [Lesson((Shown(study.text, True),), tuple(tasks[i : i + n_questions])) for i in starts]
