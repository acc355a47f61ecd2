"""What ``mini`` learns from one batch: which sentence answers, in its own passage and among all of them; that sentences
elsewhere do not; which tokens the query's trigger points at; and to stay the retriever that the base is.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxcompress_integrations.hf.token_reader import TokenReader
from ctxcompress_integrations.nn.late_interaction import LateInteraction, TrainingHead, mean_vector
from ctxcompress_integrations.nn.packed_encoder import run_layers
from ctxcompress_integrations.training.mini_batch import Layout, matched, texts_of
from ctxcompress_integrations.training.mini_data import Batch, TrainingQuestion, TrainingSet

ANSWERABLE_WEIGHT = 0.5
TOKEN_WEIGHT = 0.2
DRIFT_WEIGHT = 2.0
N_HARDEST = 4
"""Sentences of other passages that a question's threshold learns from: those that score highest."""
FAR = -1e4
"""Stands for minus infinity in logits: log-sum-exp over nothing but it stays finite."""


class Losses(NamedTuple):
    """Means over the questions of a batch.

    Attributes:
        among_all: cross-entropy of the answer's sentence among all sentences of the batch.
        in_passage: the same among the sentences of its own passages.
        answerable: binary cross-entropy: answering sentences up, all others down; what makes a threshold work.
        token: cross-entropy of the answer's tokens among the passage's, for the trigger.
        drift: 1 - cosine of each text's mean state with the base's: what the base knows of retrieval from far more
            data than there is here, and would forget.
    """

    among_all: Tensor
    in_passage: Tensor
    answerable: Tensor
    token: Tensor
    drift: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum that is minimised."""
        choice = self.among_all + self.in_passage
        return choice + ANSWERABLE_WEIGHT * self.answerable + TOKEN_WEIGHT * self.token + DRIFT_WEIGHT * self.drift


def batch_losses(
    model: LateInteraction,
    head: TrainingHead,
    base_layers: nn.ModuleList,
    data: TrainingSet,
    batch: Batch,
    reader: TokenReader,
    generator: random.Random,
) -> Losses:
    """Encode the batch once and score every question against every sentence.

    Args:
        model, head: what learns.
        base_layers: the last layers of the base; the model's layers before them are frozen and serve both.
        data, batch: what to learn from.
        reader: of the base's tokens.
        generator: for noise in questions, and for which titles are read.
    """
    texts = texts_of(data, batch, reader, generator, model.query.weight.device)
    layers, n_frozen = model.encoder.layers, len(model.encoder.layers) - len(base_layers)
    with torch.autocast(texts.ids.device.type, torch.bfloat16):
        with torch.no_grad():
            low = run_layers(layers[:n_frozen], model.encoder.embed(texts.ids, texts.blocks), texts.blocks)
            of_base = torch.split(run_layers(base_layers, low, texts.blocks), texts.lengths)
        states = run_layers(layers[n_frozen:], low, texts.blocks)
    found = matched(model, states, texts)
    drift = 1 - (found.pooled * torch.stack([mean_vector(s) for s in of_base])).sum(dim=-1)
    return Losses(
        *sentence_losses(found.scores, head, texts.questions, data, batch, texts.layout),
        token_loss(found.triggers * head.token_scale.exp(), texts.questions, data, texts.layout),
        drift.mean(),
    )


def sentence_losses(
    scores: Tensor,
    head: TrainingHead,
    questions: Sequence[TrainingQuestion],
    data: TrainingSet,
    batch: Batch,
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """``among_all``, ``in_passage`` and ``answerable`` from scores ``[questions, s]``."""
    positive, own, unknown = (torch.zeros(scores.shape, dtype=torch.bool) for _ in range(3))
    for row, question in enumerate(questions):
        for p, s in question.positives:
            positive[row, layout.first[p] + s] = True
        for p in question.passages:
            own[row, layout.first[p] : layout.first[p] + data.passages[p].n_sentences] = True
        for column in _also_answering(question, data, batch, layout):
            unknown[row, column] = True
    positive, own, unknown = (
        positive.to(scores.device),
        own.to(scores.device),
        unknown.to(scores.device) & ~own.to(scores.device),
    )
    logits = ((scores - head.middle) * head.sentence_scale.exp()).masked_fill(unknown, FAR)
    needs_all = torch.tensor([q.needs_all for q in questions], device=scores.device)
    among_all = _choice(logits, positive, torch.ones_like(own), needs_all)
    in_passage = _choice(logits, positive, own, needs_all)
    best = torch.where(needs_all, _mean(F.softplus(-logits), positive), F.softplus(-_lse(logits, positive)))
    near, far = ~positive & own, ~positive & ~own & ~unknown
    hardest = logits.masked_fill(~far, FAR).topk(min(N_HARDEST, logits.shape[1]), dim=-1).values
    answerable = best + _mean(F.softplus(logits), near) + F.softplus(hardest).mean(dim=-1)
    return among_all.mean(), in_passage.mean(), answerable.mean()


def _choice(logits: Tensor, positive: Tensor, among: Tensor, needs_all: Tensor) -> Tensor:
    """Cross-entropy ``[questions]`` of the positives among candidates: of any of them, or of each against the rest."""
    any_of = _lse(logits, among) - _lse(logits, positive)
    rest = _lse(logits, among & ~positive)[:, None]
    each = _mean(torch.logaddexp(logits, rest) - logits, positive)
    return torch.where(needs_all, each, any_of)


def token_loss(logits: Tensor, questions: Sequence[TrainingQuestion], data: TrainingSet, layout: Layout) -> Tensor:
    """``token`` from ``logits`` ``[questions, n]`` of the triggers; 0 when no answer of the batch is marked."""
    inside, answer = (torch.zeros(logits.shape, dtype=torch.bool) for _ in range(2))
    for row, question in enumerate(questions):
        number = question.passages[0]
        passage, start = data.passages[number], layout.first_token[number]
        characters = [c for c, s in zip(passage.starts, passage.sentence, strict=True) if s >= 0]
        hit = [start + i for i, c in enumerate(characters) if any(a <= c < b for a, b in question.answer_spans)]
        if hit:
            inside[row, start : start + len(characters)] = True
            answer[row, hit] = True
    rows = answer.any(dim=1)
    if not bool(rows.any()):
        return logits.sum() * 0
    inside, answer = inside[rows].to(logits.device), answer[rows].to(logits.device)
    logits = logits[rows.to(logits.device)]
    return (_lse(logits, inside) - _lse(logits, answer)).mean()


def _also_answering(question: TrainingQuestion, data: TrainingSet, batch: Batch, layout: Layout) -> list[int]:
    """Sentences of other passages in which an answer's text stands."""
    found = []
    for answer in (a for a in question.answers[:3] if len(a) > 2):
        for p in batch.passages:
            passage = data.passages[p]
            at = passage.text.find(answer) if p not in question.passages else -1
            while at >= 0:
                token = bisect_right(passage.starts, at, hi=len(passage.starts) - 1) - 1  # [SEP] starts at 0
                if passage.sentence[token] >= 0:
                    found.append(layout.first[p] + passage.sentence[token])
                at = passage.text.find(answer, at + 1)
    return found


def _lse(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, FAR).logsumexp(dim=-1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
