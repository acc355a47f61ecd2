"""What a reader is shown and asked in one step of training: passages, as text or as vectors, and tasks about them.

Every task is a question of the prompt that readers answer later: giving a passage back (autoencoding), telling what it
says in another order (retelling) and going on with it (continuation) are questions, too, so that whoever learned them
reads the vectors in the place where they will stand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

Kind: TypeAlias = Literal["continue", "retell", "autoencode", "answer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REPEAT = "What does the last passage say, word by word?"
RETELL = "What does the last passage say, in another order?"
CONTINUE = "How does the last passage go on?"


class Study(NamedTuple):
    """A passage to learn on.

    Attributes:
        questions: what is asked of it, ``(question, answer)``.
        tellings: other ways to say all that it says.
        shelf: passages of one shelf are easily taken for each other, as those are that an index finds together.
    """

    text: str
    n_tokens: int
    questions: tuple[tuple[str, str], ...]
    tellings: tuple[str, ...] = ()
    shelf: str = ""


class Task(NamedTuple):
    """A question and what is to be said to it."""

    kind: Kind
    question: str
    answer: str


class Shown(NamedTuple):
    """A passage in a prompt."""

    text: str
    as_vectors: bool


@dataclass(frozen=True, slots=True)
class Lesson:
    """One prompt with several questions."""

    passages: tuple[Shown, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """What lessons are made of.

    Attributes:
        continuation: share of the steps that ask how a passage goes on.
        retelling: share of the steps that ask for another telling of passages that have one. Positions can copy a text;
            only what stands where, of whom, can tell it in another order.
        autoencode: share of the others that, beside its questions, ask for the passage itself.
        n_questions: that a lesson asks at most of each passage.
        n_passages: that a prompt shows at most, of one shelf where they have one; each step draws how many. A step's
            passages are as many, so the more a prompt shows, the fewer prompts a step has.
        text_share: of the passages that travel as text.
        max_text: tokens of the passages that a prompt shows as text; those beyond travel as vectors. None for all.
        max_tokens: of the passages; None for all.
    """

    autoencode: float = 1.0
    continuation: float = 0.0
    retelling: float = 0.0
    n_questions: int = 8
    n_passages: int = 1
    text_share: float = 0.0
    max_text: int | None = None
    max_tokens: int | None = None


def lessons(studies: Sequence[Study], mix: Mix, *, batch: int, draw: random.Random) -> list[Lesson]:
    """One step's lessons, decided by ``draw`` alone.

    Raises:
        ValueError: fewer studies than a batch takes.
    """
    fitting = [s for s in studies if mix.max_tokens is None or s.n_tokens <= mix.max_tokens]
    if len(fitting) < batch:
        short = "" if mix.max_tokens is None else f" of at most {mix.max_tokens} tokens"
        raise ValueError(
            f"the data have {len(fitting)} usable passages{short}, a batch takes {batch}: give more, or lower batch"
        )
    chosen = draw.sample(fitting, batch)
    # one kind and one number of passages for a whole step: rows of one length, little is padded
    kind = draw.choices(KINDS, _shares(mix))[0]
    size = draw.randint(1, mix.n_passages) if kind in ("autoencode", "answer") else 1
    firsts = chosen[: max(1, batch // size)]
    shelves: dict[str, list[Study]] = {first.shelf: [] for first in firsts}
    for study in fitting if size > 1 else ():
        if study.shelf in shelves:
            shelves[study.shelf].append(study)
    return [_lesson(first, shelves[first.shelf] if first.shelf else chosen, size, kind, mix, draw) for first in firsts]


def _shares(mix: Mix) -> tuple[float, ...]:
    """How often a step is of each of :data:`KINDS`."""
    rest = 1 - mix.continuation - mix.retelling
    return mix.continuation, mix.retelling, rest * mix.autoencode, rest * (1 - mix.autoencode)


def _lesson(study: Study, beside: Sequence[Study], size: int, kind: Kind, mix: Mix, draw: random.Random) -> Lesson:
    if kind == "continue" and (words := study.text.split(" "))[7:]:
        cut = draw.randint(len(words) // 3, len(words) - 2)
        begun, rest = " ".join(words[:cut]), " ".join(words[cut:])
        return Lesson(_shown([study._replace(text=begun)], mix, draw), (Task("continue", CONTINUE, rest),))
    if kind == "retell" and study.tellings:
        return Lesson(_shown([study], mix, draw), (Task("retell", RETELL, draw.choice(study.tellings)),))
    together = _together(study, beside, size, draw)
    asked = [draw.sample(one.questions, min(len(one.questions), mix.n_questions)) for one in together]
    tasks = [Task("answer", *pair) for pairs in asked for pair in pairs]
    if not tasks or kind == "autoencode":
        tasks.append(Task("autoencode", REPEAT, together[-1].text))
    return Lesson(_shown(together, mix, draw), tuple(tasks))


def _shown(studies: Iterable[Study], mix: Mix, draw: random.Random) -> tuple[Shown, ...]:
    shown, n_left = [], math.inf if mix.max_text is None else mix.max_text
    for study in studies:
        as_text = draw.random() < mix.text_share and study.n_tokens <= n_left
        n_left -= study.n_tokens if as_text else 0
        shown.append(Shown(study.text, not as_text))
    return tuple(shown)


def _together(study: Study, beside: Sequence[Study], size: int, draw: random.Random) -> list[Study]:
    """``size`` studies in any order, or what there is of them; no question is asked by two."""
    together, asked = [study], {question for question, _ in study.questions}
    for other in draw.sample(beside, len(beside)) if size > 1 else ():
        if len(together) < size and other is not study and asked.isdisjoint(q for q, _ in other.questions):
            together.append(other)
            asked.update(question for question, _ in other.questions)
    draw.shuffle(together)
    return together
