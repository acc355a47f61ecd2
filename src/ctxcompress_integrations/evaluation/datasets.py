"""Questions with the passages they are asked of: the JSON-lines formats of public RAG data, and users' own files.

A row is a *span* ``{question, context, answers: [{text, start}]}``, *documents* ``{question, answers: [str], docs:
[{title, text | sentences, gold_sentences, is_gold}]}``, a *story* ``{sections: [{n, text}], questions: [{question,
answers, sections}]}``, a *pair* ``{question, sentence}`` or a *meeting* ``{turns: [[speaker, text]],
questions: [{question, spans}]}``. Rows that fit none are counted with their line numbers, never guessed at. Titles
become metadata, as hosts hand them over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ctxcompress_integrations.evaluation import fields
from ctxcompress_integrations.evaluation.jsonl import DatasetError, lines_of
from ctxcompress_integrations.records import Passage


class Stretch(NamedTuple):
    """A stretch of one passage: characters ``[start, end)`` of passage number ``passage``."""

    passage: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """One question.

    Attributes:
        answers: texts of which one must survive; empty when none stands in the passages.
        marked: where annotators marked an answer; one of them is enough.
        gold: what supports the answer, all of it needed; empty when that is not annotated.
        is_answerable: False when the passages do not hold the answer.
        group: questions of one group share their passages or their topic.
    """

    id: str
    question: str
    passages: tuple[Passage, ...]
    answers: tuple[str, ...] = ()
    marked: tuple[Stretch, ...] = ()
    gold: tuple[Stretch, ...] = ()
    is_answerable: bool = True
    group: str = ""
    language: str = "en"


class Problem(NamedTuple):
    """A row that could not be used: its line, from 1, and why."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Usable examples of one file, and the rows that were skipped."""

    name: str
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()


def load_dataset(path: Path, *, name: str | None = None, where: Callable[[Example], bool] | None = None) -> Dataset:
    """Read a plain or gzipped JSON-lines file.

    Args:
        path: the file.
        name: what reports call it; the name of the file without ``.jsonl`` or ``.jsonl.gz`` when None.
        where: which examples to take.

    Raises:
        DatasetError: no usable row; OSError: no such file.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        try:
            made = list(_examples(json.loads(line.decode()), f"{path.name}:{number}"))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            problems.append(Problem(number, " ".join(f"{type(error).__name__}: {error}".split())[:200]))
            continue
        examples += [example for example in made if where is None or where(example)]
    if not examples:
        first = f" (line {problems[0].line}: {problems[0].why})" if problems else ""
        raise DatasetError(f"{path} has no usable row{first}; the formats are described in docs/evaluation.md")
    return Dataset(name or Path(path.name.removesuffix(".gz")).stem, tuple(examples), tuple(problems))


def _examples(row: Any, fallback_id: str) -> Iterator[Example]:
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, got {type(row).__name__}")
    if "sections" in row:
        yield from _story(row)
    elif "turns" in row:
        yield from _meeting(row)
    elif "docs" in row:
        yield _rag(row, fallback_id)
    elif "sentence" in row and "context" not in row:
        yield _pair(row, fallback_id)
    else:
        yield _span(row, fallback_id)


def _span(row: dict[str, Any], fallback_id: str) -> Example:
    context, answers = fields.text("context", row["context"]), fields.several("answers", row["answers"])
    if not context.strip():
        raise ValueError("the context is blank")
    marked = [_stretch("answer", answer, context) for answer in answers]
    sentence = row.get("gold_sentence")
    gold = [] if sentence is None else [_stretch("gold_sentence", sentence, context)]
    said = row.get("answerable", row.get("is_answerable"))
    is_answerable = fields.truth("answerable", said, absent=bool(marked))
    return Example(
        str(row.get("id", fallback_id)),
        _question(row),
        _passages([context], [row.get("title")]),
        tuple(dict.fromkeys(answer["text"] for answer in answers)) if is_answerable else (),
        tuple(dict.fromkeys(marked)) if is_answerable else (),
        tuple(gold),
        is_answerable,
        str(row.get("title", "")),
        str(row.get("lang", "en")),
    )


def _stretch(name: str, mark: dict[str, Any], context: str) -> Stretch:
    start, text = fields.number(f"the start of the {name}", mark["start"]), fields.text(f"the {name}", mark["text"])
    if start < 0 or not text.strip() or context[start : start + len(text)] != text:
        raise ValueError(f"the {name} {text!r:.80} does not stand at character {start}")
    return Stretch(0, start, start + len(text))


def _pair(row: dict[str, Any], fallback_id: str) -> Example:
    sentence = fields.text("sentence", row["sentence"])
    holds = fields.truth("label", row.get("label"), absent=True)
    gold = (Stretch(0, 0, len(sentence)),) if holds else ()
    passages = _passages([sentence], [None])
    return Example(str(row.get("id", fallback_id)), _question(row), passages, gold=gold, is_answerable=holds)


def _rag(row: dict[str, Any], fallback_id: str) -> Example:
    texts, gold = [], []
    docs = fields.several("docs", row["docs"])
    for number, doc in enumerate(docs):
        if "sentences" in doc:
            sentences = fields.texts("sentences", doc["sentences"])
            named = fields.several("gold_sentences", doc.get("gold_sentences") or [])
            text, marked = "", {fields.place("each of gold_sentences", i, len(sentences)) for i in named}
            for i, sentence in enumerate(sentences):
                piece = sentence.strip()
                text += " " if text and piece else ""
                if i in marked and piece:
                    gold.append(Stretch(number, len(text), len(text) + len(piece)))
                text += piece
        else:
            text = fields.text("the text of a document", doc["text"])
            if fields.truth("is_gold", doc.get("is_gold"), absent=False):
                gold.append(Stretch(number, 0, len(text)))
        texts.append(text)
    answers = tuple(dict.fromkeys(a for a in fields.texts("answers", row.get("answers") or []) if a.strip()))
    joined = "\n".join(texts)
    found = tuple(a for a in answers if a.casefold() not in ("yes", "no") and _find(a, joined, 0))
    titles = [doc.get("title") for doc in docs]
    return Example(str(row.get("id", fallback_id)), _question(row), _passages(texts, titles), found, gold=tuple(gold))


def _story(row: dict[str, Any]) -> Iterator[Example]:
    texts = [fields.text("the text of a section", section["text"]) for section in row["sections"]]
    numbers = {section["n"]: i for i, section in enumerate(row["sections"])}
    passages = _passages(texts, [None] * len(texts))
    for i, question in enumerate(row["questions"]):
        places = [numbers[n] for n in question["sections"]]
        answers = [a.strip().rstrip(".") for a in fields.texts("answers", question["answers"])]
        marked = [stretch for place in places for a in answers if a for stretch in _find(a, texts[place], place)]
        found = tuple(dict.fromkeys(texts[m.passage][m.start : m.end] for m in marked))
        gold = tuple(Stretch(place, 0, len(texts[place])) for place in places)
        yield Example(
            f"{row['doc_id']}-{i}", _question(question), passages, found, tuple(marked), gold, group=str(row["doc_id"])
        )


def _meeting(row: dict[str, Any]) -> Iterator[Example]:
    texts = [": ".join(fields.texts("a turn", turn)) for turn in row["turns"]]
    passages = _passages(texts, [None] * len(texts))
    for i, question in enumerate(row["questions"]):
        if question.get("spans"):
            spans = [[fields.place("a turn of spans", t, len(texts)) for t in span] for span in question["spans"]]
            turns = [t for first, last in spans for t in range(first, last + 1)]
            gold = tuple(Stretch(turn, 0, len(texts[turn])) for turn in dict.fromkeys(turns))
            yield Example(f"{row['doc_id']}-{i}", _question(question), passages, gold=gold, group=str(row["doc_id"]))


def _find(answer: str, text: str, passage: int) -> list[Stretch]:
    """Where ``answer`` stands as whole words, case aside."""
    pattern = rf"(?<!\w){re.escape(answer)}(?!\w)"
    return [Stretch(passage, *match.span()) for match in re.finditer(pattern, text, re.IGNORECASE)]


def _passages(texts: Sequence[str], titles: Sequence[Any]) -> tuple[Passage, ...]:
    if not texts:
        raise ValueError("there is no passage")
    return tuple(
        Passage(str(i), text, metadata={"title": title} if title else {})
        for i, (text, title) in enumerate(zip(texts, titles, strict=True))
    )


def _question(row: dict[str, Any]) -> str:
    question = fields.text("question", row["question"])
    if not question.strip():
        raise ValueError("the question is blank")
    return question
