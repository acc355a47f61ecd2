"""Exact match: the share of questions that a reader answers word for word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.evaluation.metrics import folded
from ctxcompress_integrations.pipeline import PROMPT, around
from ctxcompress_integrations.readers.base import Reader
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.training.script import arranged


def exact_match(
    reader: Reader,
    examples: Sequence[Example],
    *,
    summarize: Callable[[Sequence[str]], Sequence[SummaryVectors]] | None = None,
    has_context: bool = True,
    prompt: str = PROMPT,
    max_new_tokens: int = 8,
) -> float:
    """Share of single questions whose answer is right: case and white space aside.

    Args:
        reader: that answers.
        examples: with passages, all of which are shown, and answers.
        summarize: texts -> vectors that stand for them; None for the texts themselves.
        has_context: False asks without any passage.
        prompt: with ``{context}`` and ``{question}``.
        max_new_tokens: longest answer.

    Raises:
        ValueError: no example.
    """
    if not examples:
        raise ValueError("there is no example to measure on")
    texts = list(dict.fromkeys(passage.text for example in examples for passage in example.passages))
    vectors: Mapping[str, SummaryVectors] = {}
    if summarize is not None and has_context:
        vectors = dict(zip(texts, summarize(texts), strict=True))

    shown = [[vectors.get(p.text, p.text) for p in example.passages if has_context] for example in examples]
    prompts = [around(arranged(s), e.question, prompt) for s, e in zip(shown, examples, strict=True)]
    answers = reader.generate_many(prompts, max_new_tokens=max_new_tokens)
    return sum(is_exact(answer, example) for answer, example in zip(answers, examples, strict=True)) / len(examples)


def is_exact(answer: str, example: Example) -> bool:
    """True for one of the example's answers, case and white space aside."""
    return folded(answer).strip() in {folded(known).strip() for known in example.answers}
