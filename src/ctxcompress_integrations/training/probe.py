"""``ctxcompress train probe``: which attention heads of a decoder LM point at the sentence that answers.

Features come from the code that scores, a sentence is labelled by whether it touches a marked answer, and
scikit-learn's logistic regression (L2) is fitted on them. Answering sentences are few: both classes weigh alike
(``class_weight="balanced"``), so 0.5 separates them best and is no share of sentences. Questions about one passage stay
together in the split, so that no sentence is both learnt from and measured on.

Sentinel (arXiv:2505.23277) trains on questions that its LM answers rightly with the context and wrongly without. There
is no such filter here: filter the rows before they come in. Questions of whose passage every sentence or none answers
say nothing about heads and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ctxcompress_integrations._optional import check, require
from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf.probe import ProbeHead
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.probe import AllHeads
from ctxcompress_integrations.scorers.quito import Quito
from ctxcompress_integrations.text.pieces import sentence_features, sentence_pieces
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment

check("sklearn", extra="train")  # before an hour of forwards

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty among which the second part of the data chooses."""
SHARES = (0.7, 0.15)
"""Of the passages: to fit, and to choose; the rest measures."""
AT_ONCE = 32
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """What training saw; the last four are of passages that it did not see.

    Attributes:
        n_questions: used, for fitting, choosing and measuring.
        n_left_out: rows that say nothing about heads, or whose question fills the model's window.
        strength: the inverse penalty C that was chosen.
        n_held_out: questions behind the measures.
        top1: share of questions whose best sentence holds the answer.
        top1_raw: the same for the last layer's attention as QUITO reads it, under the same prompt.
        auc: chance that a sentence with the answer scores above one without.
    """

    n_questions: int
    n_left_out: int
    strength: float
    n_held_out: int
    top1: float
    top1_raw: float
    auc: float


class _Question(NamedTuple):
    passage: str
    features: Floats  # [s, f]
    raw: Floats  # [s]
    is_answer: NDArray[np.bool_]  # [s]


def train_probe(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    base: str,
    seed: int = 0,
    template: str | None = None,
    progress: bool = False,
) -> tuple[ProbeHead, ProbeFigures]:
    """Fit a probe for a decoder LM.

    Args:
        model: the LM; used as scoring uses it, left as it was.
        tokenizer: its fast tokenizer.
        examples: questions with marked answers in one passage; others are left out.
        base: the name that the model is loaded by.
        seed: decides the split.
        template: as for :class:`~ctxcompress_integrations.scorers.probe.AllHeads`; the head remembers it.
        progress: show a bar on standard error.

    Raises:
        ValueError: usable questions about fewer than three passages.
        MissingExtraError: scikit-learn is not installed.
    """
    reader = AllHeads(model, tokenizer, template=template)
    questions: list[_Question] = []
    starts = range(0, len(examples), AT_ONCE)
    for start in track(starts, "reading attention", console=Console(stderr=True), disable=not progress):
        questions += _read(reader, examples[start : start + AT_ONCE])
    fit, choose, measure = _split(questions, seed)
    strength = min(STRENGTHS, key=lambda c: _loss(_fitted(fit, c, reader, base, template), choose))
    head = _fitted(fit + choose, strength, reader, base, template)
    figures = ProbeFigures(
        n_questions=len(questions),
        n_left_out=len(examples) - len(questions),
        strength=strength,
        n_held_out=len(measure),
        top1=float(np.mean([q.is_answer[head(q.features).argmax()] for q in measure])),
        top1_raw=float(np.mean([q.is_answer[q.raw.argmax()] for q in measure])),
        auc=_auc(head, measure),
    )
    return head, figures


def _read(reader: AllHeads, rows: Sequence[Example]) -> list[_Question]:
    """Features and labels of the rows that have both a sentence that answers and one that does not."""
    single = [row for row in rows if len(row.passages) == 1]
    labelled = [(row, labels) for row in single if 0 < (labels := _labels(row)).sum() < len(labels)]
    try:
        scored = reader.score([ScoreRequest([row.passages[0].text], row.question) for row, _ in labelled])
    except ValueError:  # a question fills the window: of many rows, all but that one are good
        return [question for row in rows for question in _read(reader, [row])] if len(rows) > 1 else []
    found = []
    for (row, labels), (relevance,) in zip(labelled, scored, strict=True):
        words, first_words = segment(row.passages[0].text)
        raw = word_rows(relevance, relevance.scores[None], words, sigma=Quito.sigma)
        features = sentence_features(sentence_pieces(row.passages[0].text, relevance))
        found.append(_Question(row.passages[0].text, features, unit_scores(raw, first_words), labels))
    return found


def _labels(row: Example) -> NDArray[np.bool_]:
    """For each sentence ``[s]``, whether it touches an answer."""
    words, first_words = segment(row.passages[0].text)
    starts = words[first_words, 0]
    ends = np.append(starts[1:], len(row.passages[0].text))
    labels = np.zeros(len(starts), dtype=np.bool_)
    for _, start, end in row.marked:
        labels |= (starts < end) & (ends > start)
    return labels


def _split(questions: Sequence[_Question], seed: int) -> tuple[list[_Question], list[_Question], list[_Question]]:
    passages = list(dict.fromkeys(question.passage for question in questions))
    n = len(passages)
    if n < 3:
        raise ValueError(
            f"{len(questions)} usable questions about {n} passages are too few: give rows about 3 passages at least, "
            "each with a sentence that answers and one that does not"
        )
    order = np.random.default_rng(seed).permutation(n)
    n_fit = min(max(1, round(SHARES[0] * n)), n - 2)
    n_choose = min(max(1, round(SHARES[1] * n)), n - n_fit - 1)
    part_of = {passages[i]: int(rank >= n_fit) + int(rank >= n_fit + n_choose) for rank, i in enumerate(order)}
    parts: tuple[list[_Question], list[_Question], list[_Question]] = ([], [], [])
    for question in questions:
        parts[part_of[question.passage]].append(question)
    return parts


def _fitted(
    questions: Sequence[_Question], strength: float, reader: AllHeads, base: str, template: str | None
) -> ProbeHead:
    features = np.concatenate([q.features for q in questions])
    labels = np.concatenate([q.is_answer for q in questions])
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6] = 1.0  # a head that never varies says nothing, and must not be blown up where it does
    linear = require("sklearn.linear_model", extra="train")
    regression = linear.LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
    regression.fit((features - mean) / scale, labels)
    arrays = [
        np.asarray(array, dtype=np.float32) for array in (regression.coef_[0], regression.intercept_, mean, scale)
    ]
    weight, bias, mean, scale = arrays
    return ProbeHead(weight, bias, mean, scale, base, reader.n_layers, reader.n_heads, template)


def _loss(head: ProbeHead, questions: Sequence[_Question]) -> float:
    """Log loss, both classes weighed alike: unlike the AUC it also asks that probabilities mean something."""
    log_odds, labels = _scored(head, questions)
    return float(np.logaddexp(0, -log_odds[labels]).mean() + np.logaddexp(0, log_odds[~labels]).mean())


def _auc(head: ProbeHead, questions: Sequence[_Question]) -> float:
    log_odds, labels = _scored(head, questions)
    return float(require("sklearn.metrics", extra="train").roc_auc_score(labels, log_odds))


def _scored(head: ProbeHead, questions: Sequence[_Question]) -> tuple[Floats, NDArray[np.bool_]]:
    """Log-odds and labels of all sentences of the questions."""
    return np.concatenate([head(q.features) for q in questions]), np.concatenate([q.is_answer for q in questions])
