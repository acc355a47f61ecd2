"""Other people's methods as scorers, one file each, so that all are run under the same budget and the same units.

What differs from a method's release is said in its file: here a method only ranks; the budget is global over the
passages of a request and selection is the package's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctxcompress_integrations.scorers.base import Scorer

BASELINES = {
    "bm25": "BM25",
    "lead": "Lead",
    "longllmlingua": "LongLLMLinguaRank",
    "passage_vectors": "PassageVectors",
    "provence": "Provence",
    "random": "Random",
    "selective_context": "SelectiveContext",
    "sentence_vectors": "SentenceVectors",
    "token_classifier": "TokenClassifier",
}
"""Registry key, which is also the name of the method's file, and class."""


def baseline_class(name: str) -> type[Scorer]:
    """The class registered under ``name``; ``ValueError`` with the known names when there is none."""
    if name not in BASELINES:
        raise ValueError(f"there is no baseline {name!r}; known names: {', '.join(sorted(BASELINES))}")
    found: type[Scorer] = getattr(import_module(f"{__name__}.{name}"), BASELINES[name])
    return found
