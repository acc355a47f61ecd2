"""Chance: what any method has to beat."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import ClassVar

import numpy as np

from ctxcompress_integrations.evaluation.baselines.base import by_sentence
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.request import ModelFree
from ctxcompress_integrations.text.segment import segment


class Random(ModelFree):
    """A uniform value in [0, 1) per sentence, and one per word for phrases.

    Values follow from the seed, the query and the text alone, so that neither the order of the passages nor other
    requests change them; a text that stands twice in a request gets new values the second time.

    Args:
        seed: another seed is another draw; error bars over chance need several.
    """

    name: ClassVar[str] = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        seen: Counter[str] = Counter()
        results = []
        for text in request.texts:
            seen[text] += 1
            key = json.dumps([self.seed, request.query, text, seen[text]])  # ASCII: lone surrogates, too
            generator = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
            words, first_words = segment(text)
            results.append(by_sentence(text, generator.random(len(first_words)), generator.random(len(words))))
        return results
