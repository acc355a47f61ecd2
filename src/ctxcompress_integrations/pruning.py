"""One request and its scores: what is kept of each passage under its limit. Knows no scorer and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctxcompress_integrations.options import CompressionOptions
from ctxcompress_integrations.records import CompressedPassage, Passage, Relevance, Span
from ctxcompress_integrations.text.budget import Meter, TokenCounter
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment
from ctxcompress_integrations.text.select import select_above, select_within
from ctxcompress_integrations.text.selection import Mask, ScoredWords
from ctxcompress_integrations.text.spans import join_spans, spans_of


@dataclass(frozen=True, slots=True)
class Request:
    """Checked passages and what is asked of them.

    Attributes:
        options: with a limit.
        counter: counts the tokens of that limit.
    """

    passages: tuple[Passage, ...]
    query: str
    options: CompressionOptions
    counter: TokenCounter


def budget_of(request: Request, meter: Meter) -> tuple[int, int | None]:
    """Tokens of the request, and the tokens it may keep; None under a threshold."""
    texts, options = [p.text for p in request.passages], request.options
    if not any(texts):
        return 0, 0
    if options.keep_ratio is not None:
        n_tokens = meter.joined(texts)
        return n_tokens, int(options.keep_ratio * n_tokens + 1e-9)
    return meter.total(texts), options.token_budget


def untouched(passages: Sequence[Passage]) -> list[CompressedPassage]:
    """The passages as they came."""
    return [
        CompressedPassage(p.id, p.text, (Span(0, len(p.text)),) if p.text else (), p.score, p.metadata, p.text)
        for p in passages
    ]


def pruned(
    request: Request, relevances: Sequence[Relevance], meter: Meter, budget: int | None, *, sigma: float
) -> list[CompressedPassage]:
    """What is kept of each passage.

    Args:
        relevances: of the passages, in their order.
        budget: tokens, as :func:`budget_of` gives them.
        sigma: Gaussian smoothing over words where the options say none.
    """
    passages = _select(request, relevances, meter, budget, sigma)
    if any(len(p.text) > len(p.original) for p in passages):  # a joiner longer than the gaps it stands for
        plain = replace(request, options=replace(request.options, joiner=None))
        passages = _select(plain, relevances, meter, budget, sigma)
    return passages


def _select(
    request: Request, relevances: Sequence[Relevance], meter: Meter, budget: int | None, sigma: float
) -> list[CompressedPassage]:
    options = request.options
    smoothing = sigma if options.sigma is None else options.sigma
    candidates = []
    for passage, relevance in zip(request.passages, relevances, strict=True):
        words, first_words = segment(passage.text)
        rows = word_rows(relevance, relevance.rows, words, sigma=smoothing) * relevance.weight
        scores = rows[0]
        if relevance.evidence is not None:
            scores = word_rows(relevance, relevance.scores[None], words, sigma=smoothing)[0] * relevance.weight
        candidates.append(ScoredWords(passage.text, words, first_words, rows, scores))
    if budget is None:
        threshold = 0.0 if options.threshold is None else float(options.threshold)
        masks = select_above(candidates, threshold, options.unit, options.patterns)
    else:
        masks = select_within(
            candidates,
            budget,
            unit=options.unit,
            protect=options.patterns,
            meter=meter,
            joiner=options.joiner,
            is_hard=options.token_budget is not None,
        )
    return [
        _kept(passage, mask, relevance, options.joiner, candidate)
        for passage, mask, relevance, candidate in zip(request.passages, masks, relevances, candidates, strict=True)
    ]


def _kept(
    passage: Passage, mask: Mask, relevance: Relevance, joiner: str | None, scored: ScoredWords
) -> CompressedPassage:
    spans = spans_of(mask, segment(passage.text)[0])
    text = join_spans(passage.text, spans, joiner)
    best = unit_scores(scored.rows, scored.first_words).max(initial=-np.inf)
    return CompressedPassage(
        passage.id, text, spans, passage.score, passage.metadata, passage.text, relevance, float(best)
    )
