"""Thresholds that lose a known share of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.evaluation.metrics import folded
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import Scorer, ScoreRequest
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment

LOSSES = (0.002, 0.005, 0.01, 0.02, 0.05)
BATCH = 32


def calibrate(scorer: Scorer, datasets: Sequence[Dataset]) -> dict[str, float]:
    """The highest thresholds under which at most 0.2, 0.5, 1, 2 and 5 % of the answers are lost, by that share as text.

    Args:
        scorer: of which the thresholds are.
        datasets: answerable examples in them count, their blank passages aside, each data set alike; without any there
            are no thresholds.
    """
    of_sets = [scores for dataset in datasets if (scores := _answer_scores(scorer, dataset))]
    if not of_sets:
        return {}
    return {
        f"{loss:g}": round(float(np.mean([np.quantile(scores, loss, method="lower") for scores in of_sets])), 4)
        for loss in LOSSES
    }


def _answer_scores(scorer: Scorer, dataset: Dataset) -> list[float]:
    """Score of the best sentence that holds an answer, per answerable example."""
    examples = [made for e in dataset.examples if e.answers and (made := _without_blanks(e)).passages]
    scores = []
    for at in range(0, len(examples), BATCH):
        batch = examples[at : at + BATCH]
        requests = [
            ScoreRequest([p.text for p in e.passages], e.question, [p.title for p in e.passages]) for e in batch
        ]
        for example, relevances in zip(batch, scorer.score(requests), strict=True):
            held = [score for i, r in enumerate(relevances) for score in _holding(example, i, r)]
            if held:
                scores.append(max(held))
    return scores


def _without_blanks(example: Example) -> Example:
    return replace(example, passages=tuple(passage for passage in example.passages if passage.text.strip()))


def _holding(example: Example, passage: int, relevance: Relevance) -> list[float]:
    text = example.passages[passage].text
    words, first_words = segment(text)
    scores = unit_scores(word_rows(relevance, relevance.rows, words) * relevance.weight, first_words)
    ends = [*first_words[1:], len(words)]
    answers = [folded(answer) for answer in example.answers]
    return [
        float(score)
        for first, end, score in zip(first_words, ends, scores, strict=True)
        if any(answer in folded(text[words[first, 0] : words[end - 1, 1]]) for answer in answers)
    ]
