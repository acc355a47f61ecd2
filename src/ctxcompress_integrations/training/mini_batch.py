"""One batch of texts for ``mini``, packed, and how well every question matches every sentence of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ctxcompress_integrations.hf.token_reader import TokenReader
from ctxcompress_integrations.nn.late_interaction import LateInteraction, mean_vector, segment_max
from ctxcompress_integrations.nn.packed_encoder import Block, pack
from ctxcompress_integrations.training.mini_data import (
    MAX_QUESTION_TOKENS,
    Batch,
    TrainingPassage,
    TrainingQuestion,
    TrainingSet,
    noisy,
)

TITLE_SHARE = 0.6
"""Passages whose title is read in a batch: users have passages with and without."""


class Layout(NamedTuple):
    """Where the sentences of a batch stand: ``s`` sentences, then ``t`` titles; ``n`` tokens of both."""

    segment: Tensor  # int64 [n]
    document: Tensor  # int64 [s + t]
    first: dict[int, int]  # passage -> its first sentence
    first_token: dict[int, int]  # passage -> its first token after the title
    n_sentences: int


class Texts(NamedTuple):
    """Passages as they are read, then questions, end to end.

    Attributes:
        ids: int64 ``[n]``.
        blocks: of the encoder.
        lengths: tokens of each.
        is_read: bool ``[n_p]`` of each passage: tokens that are matched, of its title and its sentences.
        layout: where these stand.
        questions: as many as follow the passages.
    """

    ids: Tensor
    blocks: list[Block]
    lengths: list[int]
    is_read: list[Tensor]
    layout: Layout
    questions: list[TrainingQuestion]


class Matches(NamedTuple):
    """What late interaction says of a batch.

    Attributes:
        vectors: of the passages' read tokens, ``[m, p]``, then of the questions' tokens, ``[k, p]``; of unit length.
        weights: ``[k]``, of the questions' tokens.
        shares: ``[q, 2]``.
        pooled: mean states of all texts, passages first, unit ``[t, d]``.
        triggers: cosines of each question's first token with the read tokens, ``[q, m]``.
        scores: ``[q, s]``, of every sentence for every question.
    """

    vectors: tuple[Tensor, Tensor]
    weights: Tensor
    shares: Tensor
    pooled: Tensor
    triggers: Tensor
    scores: Tensor


def texts_of(
    data: TrainingSet, batch: Batch, reader: TokenReader, generator: random.Random, device: torch.device
) -> Texts:
    """Token ids of a batch; ``generator`` decides the noise in questions, and which titles are read."""
    passages = [data.passages[p] for p in batch.passages]
    titles = [p.title_ids if generator.random() < TITLE_SHARE else [] for p in passages]
    questions = [data.questions[q] for q in batch.questions]
    asked = [noisy(question.text, generator) for question in questions]
    question_ids = reader.sequences(asked, MAX_QUESTION_TOKENS)
    read = [[*p.ids[: p.first], *t, *p.ids[p.first :]] for p, t in zip(passages, titles, strict=True)]
    sequences = [*read, *question_ids]
    lengths = [len(sequence) for sequence in sequences]
    is_read = [
        torch.tensor([False] * p.first + [True] * len(t) + [s >= 0 for s in p.sentence[p.first :]], device=device)
        for p, t in zip(passages, titles, strict=True)
    ]
    return Texts(
        torch.tensor([token for sequence in sequences for token in sequence], device=device),
        [block.to(device) for block in pack(lengths, step=16)],
        lengths,
        is_read,
        layout_of(batch.passages, passages, titles, device),
        questions,
    )


def matched(model: LateInteraction, states: Tensor, texts: Texts) -> Matches:
    """Match every question with every sentence, from the last states ``[n, d]`` of :class:`Texts`."""
    of_texts, n_passages = torch.split(states, texts.lengths), len(texts.is_read)
    read = torch.cat([s[mask] for s, mask in zip(of_texts, texts.is_read, strict=False)])
    vectors = model.passage_vectors(read)
    queries = [model.query_vectors(q) for q in of_texts[n_passages:]]
    pooled = torch.stack([mean_vector(s) for s in of_texts])
    alike = pooled[n_passages:] @ pooled[:n_passages].T  # [questions, passages]
    asked = torch.cat([q.vectors for q in queries])
    with torch.autocast(states.device.type, torch.bfloat16):
        cosines = (asked @ vectors.T).float()  # [all query tokens, m]
    n_tokens = torch.tensor([len(q.weights) for q in queries])
    owner = torch.repeat_interleave(torch.arange(len(queries)), n_tokens).to(states.device)
    weights = torch.cat([q.weights for q in queries])
    shares = torch.stack([q.shares for q in queries if q.shares is not None])
    first = (n_tokens.cumsum(0) - n_tokens).to(states.device)
    scores = _sentence_scores(cosines, weights, owner, alike, shares, texts.layout)
    return Matches((vectors, asked), weights, shares, pooled, cosines[first], scores)


def layout_of(
    numbers: Sequence[int],
    passages: Sequence[TrainingPassage],
    titles: Sequence[Sequence[int]],
    device: torch.device,
) -> Layout:
    """Of passages with the numbers given, each with its title's token ids, empty where it is not read."""
    n_sentences = sum(passage.n_sentences for passage in passages)
    segment: list[int] = []
    document: list[int] = []
    titled: list[int] = []
    first, first_token = {}, {}
    for i, (number, passage, title) in enumerate(zip(numbers, passages, titles, strict=True)):
        if title:
            segment += [n_sentences + len(titled)] * len(title)
            titled.append(i)
        first[number], first_token[number] = len(document), len(segment)
        segment += [len(document) + s for s in passage.sentence if s >= 0]
        document += [i] * passage.n_sentences
    tensors = torch.tensor(segment, device=device), torch.tensor(document + titled, device=device)
    return Layout(*tensors, first, first_token, n_sentences)


def _sentence_scores(
    cosines: Tensor, weights: Tensor, owner: Tensor, alike: Tensor, shares: Tensor, layout: Layout
) -> Tensor:
    """``[questions, s]``: the weighted best matches in the sentence, a share of those in its passage and its title, and
    a share of ``alike`` ``[questions, passages]``; ``shares`` ``[questions, 2]``.
    """
    n_questions, n_documents = alike.shape
    best = segment_max(cosines, layout.segment, len(layout.document))
    best_of_passage = segment_max(best, layout.document, n_documents)
    best, document = best[:, : layout.n_sentences], layout.document[: layout.n_sentences]
    of_sentence = cosines.new_zeros(n_questions, len(document)).index_add(0, owner, best * weights[:, None])
    of_passage = cosines.new_zeros(n_questions, n_documents).index_add(0, owner, best_of_passage * weights[:, None])
    whole = shares[:, :1] * of_passage + shares[:, 1:] * alike
    return (of_sentence + whole[:, document]) / (1 + shares.sum(dim=1, keepdim=True))
