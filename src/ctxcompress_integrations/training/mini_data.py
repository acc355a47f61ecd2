"""From annotated questions to batches for the ``mini`` scorer: passages that lie close together, with their questions.

A batch is a few clusters of neighbouring passages (by the base encoder's vectors: hard negatives, found as the
package's index finds passages) with the questions asked of them. Every passage is encoded once and is a negative for
every question that it does not answer.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.hf.token_reader import TokenReader
from ctxcompress_integrations.hf.trained import title_ids
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.text.segment import segment, well_formed
from ctxcompress_integrations.training.checkpoint import data_digest

MAX_TOKENS = 256
MAX_QUESTION_TOKENS = 48
MAX_DOCUMENTS = 20
N_NEIGHBOURS = 16
_LITTLE_WORDS = frozenset({"a", "an", "the", "of", "in", "on", "at", "to", "is", "are", "was", "were", "did"})


@dataclass(frozen=True, slots=True)
class TrainingPassage:
    """One passage, tokenized.

    Attributes:
        title_ids: token ids of its title; empty when it has none.
        ids: token ids, special tokens included, cut at ``MAX_TOKENS``.
        first: place of the text's first token, before which a title is read.
        sentence: sentence of each token, -1 for special tokens.
        starts: first character of each token.
        n_sentences: sentences of which a token is left.
    """

    text: str
    title_ids: list[int]
    ids: list[int]
    first: int
    sentence: list[int]
    starts: list[int]
    n_sentences: int


@dataclass(frozen=True, slots=True)
class TrainingQuestion:
    """One question with what answers it.

    Attributes:
        positives: (passage, sentence) pairs.
        needs_all: every positive is needed (several hops); else one of them is enough.
        answer_spans: characters of the answers in the one passage; empty when not marked.
        answers: texts: a sentence elsewhere that holds one is neither positive nor negative.
        passages: of which it is asked; the first holds a positive.
    """

    text: str
    positives: tuple[tuple[int, int], ...]
    needs_all: bool
    answer_spans: tuple[tuple[int, int], ...]
    answers: tuple[str, ...]
    passages: tuple[int, ...]


@dataclass(slots=True)
class TrainingSet:
    """All passages and questions.

    Attributes:
        of_passage: numbers of the single-passage questions asked of each passage.
        multi: numbers of the questions that bring their own documents.
    """

    passages: list[TrainingPassage] = field(default_factory=list)
    questions: list[TrainingQuestion] = field(default_factory=list)
    of_passage: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    multi: list[int] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """SHA-256 over all that a training reads."""
        return data_digest([*((passage.text, passage.title_ids) for passage in self.passages), *self.questions])


@dataclass(frozen=True, slots=True)
class Batch:
    """Numbers of the passages to encode and of the questions to ask."""

    passages: list[int]
    questions: list[int]


def build(examples: Sequence[Example], tokenizer: Any) -> TrainingSet:
    """Tokenize, and turn annotations into sentence numbers; examples without a usable one are left out."""
    data = TrainingSet()
    number: dict[str, int] = {}
    found: list[Passage] = []

    def numbered(passage: Passage) -> int:
        if passage.text not in number:
            number[passage.text] = len(found)
            found.append(passage)
        return number[passage.text]

    wanted: list[tuple[Example, list[int], list[Stretch]]] = []
    for example in examples:
        marks = list(example.marked or example.gold)
        if not marks:
            continue
        is_multi = len({mark.passage for mark in example.gold}) > 1
        if is_multi and len(example.passages) > MAX_DOCUMENTS:
            continue
        used = range(len(example.passages)) if is_multi else [marks[0].passage]
        wanted.append((example, [numbered(example.passages[i]) for i in used], marks))
    data.passages = training_passages(found, tokenizer)
    for example, used, marks in wanted:
        is_multi = len(used) > 1
        places = {mark: used[mark.passage] if is_multi else used[0] for mark in marks}
        positives = {(places[mark], s) for mark in marks for s in _sentences(data.passages[places[mark]], mark)}
        if not positives:
            continue
        spans = tuple((mark.start, mark.end) for mark in example.marked if not is_multi)
        question = TrainingQuestion(
            well_formed(example.question), tuple(sorted(positives)), is_multi, spans, example.answers, tuple(used)
        )
        (data.multi if is_multi else data.of_passage[used[0]]).append(len(data.questions))
        data.questions.append(question)
    return data


def batches(
    data: TrainingSet,
    neighbours: NDArray[np.int64],
    *,
    seed: int,
    n_clusters: int = 4,
    cluster_tokens: int = 640,
    n_questions: int = 4,
) -> Iterator[Batch]:
    """Batches without end, the same for the same seed: each pass over the data in another order.

    Args:
        data: the passages and questions.
        neighbours: int64 ``[passages, n]``, what lies near each passage, hardest first.
        seed: of the order.
        n_clusters: clusters per batch.
        cluster_tokens: a cluster takes neighbours until it has as many tokens.
        n_questions: at most so many questions of one passage per pass.
    """
    generator = random.Random(seed)
    multi: list[int] = []
    n_made = 0
    while True:
        clusters = _clusters(data, neighbours, generator, cluster_tokens)
        for at in range(0, len(clusters), n_clusters):
            passages = [p for cluster in clusters[at : at + n_clusters] for p in cluster]
            asked = [data.of_passage[p] for p in passages]
            yield Batch(passages, [q for of in asked for q in generator.sample(of, min(n_questions, len(of)))])
            n_made += 1
            if data.multi and n_made % 6 == 0:
                multi = multi or generator.sample(data.multi, len(data.multi))
                chosen = [multi.pop() for _ in range(min(3, len(multi)))]
                yield Batch(list(dict.fromkeys(p for q in chosen for p in data.questions[q].passages)), chosen)


def noisy(question: str, generator: random.Random) -> str:
    """The question as people type it: now and then without its mark, without a word, with two letters swapped, or as
    the words that a search box needs.
    """
    chance = generator.random()
    if chance < 0.15:
        return question.rstrip("?. ") or question
    if chance < 0.22:
        words = question.split()
        if len(words) > 4:
            del words[generator.randrange(len(words))]
        return " ".join(words)
    if chance < 0.28 and len(question) > 10:
        i = generator.randrange(1, len(question) - 2)
        return question[:i] + question[i + 1] + question[i] + question[i + 2 :]
    if chance < 0.36:
        words = [word for word in question.rstrip("?. ").split() if word.lower() not in _LITTLE_WORDS]
        return " ".join(words) if len(words) > 2 else question
    return question


def _clusters(
    data: TrainingSet, neighbours: NDArray[np.int64], generator: random.Random, cluster_tokens: int
) -> list[list[int]]:
    order = [p for p in data.of_passage if data.of_passage[p]]
    generator.shuffle(order)
    left = dict.fromkeys(order)
    clusters = []
    for seed in order:
        if seed not in left:
            continue
        cluster, n_tokens = [], 0
        for p in [seed, *neighbours[seed].tolist()]:
            if p in left and n_tokens < cluster_tokens:
                del left[p]
                cluster.append(p)
                n_tokens += len(data.passages[p].ids)
        clusters.append(cluster)
    generator.shuffle(clusters)
    return clusters


def training_passages(found: Sequence[Passage], tokenizer: Any) -> list[TrainingPassage]:
    """Passages cut at ``MAX_TOKENS``, with the sentence of each token."""
    texts = [well_formed(passage.text) for passage in found]
    reader = TokenReader(tokenizer)
    titles = title_ids(reader, [well_formed(passage.title) for passage in found])
    passages = []
    for text, title, (ids, offsets) in zip(texts, titles, reader.read(texts, MAX_TOKENS), strict=True):
        sentence_starts, starts = _sentence_starts(text), offsets[:, 0].tolist()
        sentence = [max(0, bisect_right(sentence_starts, start) - 1) for start in starts]
        # [CLS] and [SEP] stand in no sentence
        before, after = len(reader.first), len(reader.last)
        passages.append(
            TrainingPassage(
                text,
                title,
                reader.framed(ids.tolist()),
                before,
                [*[-1] * before, *sentence, *[-1] * after],
                [*[0] * before, *starts, *[0] * after],
                max(sentence, default=-1) + 1,
            )
        )
    return passages


def _sentence_starts(text: str) -> list[int]:
    words, first_words = segment(text)
    return [int(words[first, 0]) for first in first_words]


def _sentences(passage: TrainingPassage, mark: Stretch) -> Iterator[int]:
    """Sentences that a marked stretch touches, of those that are left."""
    starts = _sentence_starts(passage.text)
    first, last = bisect_right(starts, mark.start) - 1, bisect_right(starts, max(mark.start, mark.end - 1)) - 1
    yield from (s for s in range(max(0, first), last + 1) if s < passage.n_sentences)
