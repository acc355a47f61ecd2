"""What ``mini`` learns from one batch: which sentence answers, in its own passage and among all of them; that sentences
elsewhere do not; and which tokens the query's trigger points at.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxcompress_integrations.nn.late_interaction import LateInteraction, TrainingHead, segment_max
from ctxcompress_integrations.nn.packed_encoder import pack
from ctxcompress_integrations.training.mini_data import (
    MAX_QUESTION_TOKENS,
    Batch,
    TrainingPassage,
    TrainingQuestion,
    TrainingSet,
    noisy,
)

ANSWERABLE_WEIGHT = 0.5
TOKEN_WEIGHT = 0.2
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
    """

    among_all: Tensor
    in_passage: Tensor
    answerable: Tensor
    token: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum that is minimised."""
        return self.among_all + self.in_passage + ANSWERABLE_WEIGHT * self.answerable + TOKEN_WEIGHT * self.token


class _Layout(NamedTuple):
    """Where the sentences of a batch stand: ``s`` sentences, ``n`` context tokens."""

    sentence: Tensor  # int64 [n]
    document: Tensor  # int64 [s]
    first: dict[int, int]  # passage -> its first sentence
    first_token: dict[int, int]  # passage -> its first context token
    n_sentences: int


def batch_losses(
    model: LateInteraction,
    head: TrainingHead,
    data: TrainingSet,
    batch: Batch,
    tokenizer: Any,
    generator: random.Random,
) -> Losses:
    """Encode the batch once and score every question against every sentence."""
    passages = [data.passages[p] for p in batch.passages]
    questions = [data.questions[q] for q in batch.questions]
    asked = [noisy(question.text, generator) for question in questions]
    question_ids = tokenizer(asked, truncation=True, max_length=MAX_QUESTION_TOKENS)["input_ids"]
    device = model.passage_share.device
    sequences = [*(p.ids for p in passages), *question_ids]
    lengths = [len(sequence) for sequence in sequences]
    ids = torch.tensor([token for sequence in sequences for token in sequence], device=device)
    blocks = [block.to(device) for block in pack(lengths, step=16)]
    with torch.autocast(device.type, torch.bfloat16):
        states = model.encoder(ids, blocks)
    layout = _layout(batch.passages, passages, device)
    n_context = sum(lengths[: len(passages)])
    is_text = torch.tensor([s >= 0 for p in passages for s in p.sentence], device=device)
    vectors = model.passage_vectors(states[:n_context][is_text])
    queries = [model.query_vectors(q) for q in states[n_context:].split(lengths[len(passages) :])]
    with torch.autocast(device.type, torch.bfloat16):
        cosines = (torch.cat([q.vectors for q in queries]) @ vectors.T).float()  # [all query tokens, n]
    owner = torch.repeat_interleave(torch.arange(len(queries)), torch.tensor([len(q.weights) for q in queries]))
    weights = torch.cat([q.weights for q in queries])
    scores = _sentence_scores(cosines, weights, owner.to(device), layout, model.passage_share, len(questions))
    triggers = torch.tensor([0, *(len(q.weights) for q in queries[:-1])], device=device).cumsum(0)
    return Losses(
        *_sentence_losses(scores, head, questions, data, batch, layout),
        _token_loss(cosines[triggers] * head.token_scale.exp(), questions, data, layout),
    )


def _layout(numbers: Sequence[int], passages: Sequence[TrainingPassage], device: torch.device) -> _Layout:
    sentence: list[int] = []
    document: list[int] = []
    first, first_token = {}, {}
    for i, (number, passage) in enumerate(zip(numbers, passages, strict=True)):
        first[number], first_token[number] = len(document), len(sentence)
        sentence += [len(document) + s for s in passage.sentence if s >= 0]
        document += [i] * passage.n_sentences
    return _Layout(
        torch.tensor(sentence, device=device), torch.tensor(document, device=device), first, first_token, len(document)
    )


def _sentence_scores(
    cosines: Tensor, weights: Tensor, owner: Tensor, layout: _Layout, share: Tensor, n_questions: int
) -> Tensor:
    """``[questions, s]``: the weighted best matches in the sentence, and ``share`` times those in its passage."""
    best = segment_max(cosines, layout.sentence, layout.n_sentences)
    n_documents = int(layout.document[-1]) + 1
    best_of_passage = segment_max(best, layout.document, n_documents)
    of_sentence = cosines.new_zeros(n_questions, layout.n_sentences).index_add(0, owner, best * weights[:, None])
    of_passage = cosines.new_zeros(n_questions, n_documents).index_add(0, owner, best_of_passage * weights[:, None])
    return (of_sentence + share * of_passage[:, layout.document]) / (1 + share)


def _sentence_losses(
    scores: Tensor,
    head: TrainingHead,
    questions: Sequence[TrainingQuestion],
    data: TrainingSet,
    batch: Batch,
    layout: _Layout,
) -> tuple[Tensor, Tensor, Tensor]:
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


def _token_loss(logits: Tensor, questions: Sequence[TrainingQuestion], data: TrainingSet, layout: _Layout) -> Tensor:
    """``logits`` ``[questions, n]`` of the triggers; 0 when no answer of the batch is marked."""
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


def _also_answering(question: TrainingQuestion, data: TrainingSet, batch: Batch, layout: _Layout) -> list[int]:
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
