"""A lesson in tokens: the very prompts that readers answer later, what they begin with said once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ctxcompress_integrations.allocation import label
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.pipeline import around
from ctxcompress_integrations.records import PASSAGE_SEPARATOR, SummaryVectors
from ctxcompress_integrations.text.parts import Part
from ctxcompress_integrations.training.lessons import Lesson, Task


class Script(NamedTuple):
    """A lesson in tokens; a negative number ``-1 - i`` stands for the vectors of passage ``i``.

    Attributes:
        beginning: what all questions share.
        endings: the rest of each prompt with its answer and the end token.
        n_answers: how many of an ending's last tokens are answer and end token.
    """

    beginning: list[int]
    endings: list[list[int]]
    n_answers: list[int]


def script_of(lesson: Lesson, splicer: Splicer, prompt: str) -> Script:
    """A lesson as the reader will get it: tokens of the very prompts that :func:`around` makes."""
    parts = arranged(_held_open(i) if one.as_vectors else one.text for i, one in enumerate(lesson.passages))
    prompts = [_tokens(splicer, around(parts, task.question, prompt)) for task in lesson.tasks]
    n_shared = min(map(len, prompts)) - 1  # an ending begins with a token of its prompt: its state predicts
    for other in prompts[1:]:
        n_shared = min(
            [n_shared, *(i for i, pair in enumerate(zip(prompts[0], other, strict=False)) if len({*pair}) > 1)]
        )
    answers = [splicer.answer(task.answer) for task in lesson.tasks]
    endings = [[*ids[n_shared:], *answer] for ids, answer in zip(prompts, answers, strict=True)]
    return Script(prompts[0][:n_shared], endings, list(map(len, answers)))


def fitted(script: Script, tasks: Sequence[Task], limit: int) -> Script:
    """The script in no more than ``limit`` positions: a passage that is given back ends where they end.

    Raises:
        ValueError: an answer to a question, or a prompt alone, takes more.
    """
    room, endings, counts = limit - len(script.beginning), [], []
    for task, ending, n in zip(tasks, script.endings, script.n_answers, strict=True):
        n_over = max(0, len(ending) - room)
        if n_over >= n or (n_over and task.kind == "answer"):
            raise ValueError(
                f"a prompt with its answer takes {n_over} positions more than the reader has: give shorter or fewer "
                f"passages (asked: {task.question!r})"
            )
        endings.append(ending[: len(ending) - n_over])
        counts.append(n - n_over)
    return Script(script.beginning, endings, counts)


def arranged(passages: Iterable[str | SummaryVectors]) -> list[Part]:
    """Passages one below the other with their labels, as an allocation arranges them."""
    parts: list[Part] = []
    for i, passage in enumerate(passages):
        before = (PASSAGE_SEPARATOR if i else "") + label(i + 1, "")
        parts += [before + passage] if isinstance(passage, str) else [before, passage]
    return parts


def _held_open(i: int) -> SummaryVectors:
    """A place for the vectors of a lesson's passage."""
    return SummaryVectors(str(i), np.zeros((1, 1), np.float32), "", "", 0)


def _tokens(splicer: Splicer, parts: Sequence[Part]) -> list[int]:
    ids: list[int] = []
    n_vectors = 0
    places = [int(part.id) for part in parts if isinstance(part, SummaryVectors)]
    for segment in splicer.segments(parts):
        if isinstance(segment, list):
            ids += segment
        else:
            ids.append(-1 - places[n_vectors])
            n_vectors += 1
    return ids
