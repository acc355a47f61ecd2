"""From a method's name to a scorer: the package's own and the baselines, all through one door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctxcompress_integrations.errors import ModelLoadError
from ctxcompress_integrations.evaluation.baselines import BASELINES, baseline_class
from ctxcompress_integrations.scorers import available_scorers, scorer_class
from ctxcompress_integrations.scorers.base import Scorer

STANDARD = ("mini", "mini-untrained", "random", "lead", "bm25", "sentence_vectors", "passage_vectors", "lexical")
"""What is compared when no method is named: all that runs without a model from a hub."""
NEEDS_DECODER = ("quito", "selective_context", "longllmlingua", "probe")
NEEDS_NAME = {"quito_x": "seq2seq", "token_classifier": "token_classifier", "provence": "provence"}


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """Models that methods need.

    Attributes:
        decoder: of ``quito``, ``probe``, ``selective_context`` and ``longllmlingua``.
        seq2seq: of ``quito_x``; token_classifier, provence: checkpoints of those baselines.
        weights: trained weights of ``mini``, instead of the shipped ones.
        probe: weights of ``probe``.
        trust_remote_code: let the provence checkpoint run its own code.
    """

    decoder: str | None = None
    seq2seq: str | None = None
    token_classifier: str | None = None
    provence: str | None = None
    weights: str | None = None
    probe: str | None = None
    trust_remote_code: bool = False
    device: str = "auto"
    dtype: str = "auto"


def available_methods() -> list[str]:
    """Names that :func:`load_method` knows, other packages' scorers included."""
    return sorted({*STANDARD, "mini-fast", *BASELINES, *available_scorers()})


def load_method(name: str, settings: MethodSettings) -> Scorer:
    """The scorer that a report calls ``name``.

    Raises:
        ModelLoadError: it needs a model that was not named, or that cannot be loaded; the report then says why.
        ValueError: unknown name.
    """
    arguments: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
    if name == "mini":
        return scorer_class("mini").load(**arguments, weights=settings.weights)
    if name == "mini-fast":
        arguments["fast"] = True
        return scorer_class("mini").load(**arguments)
    if name == "mini-untrained":
        return scorer_class("mini").load(**arguments, weights="none")
    if name in NEEDS_DECODER:
        arguments["model"] = _named(name, settings.decoder, "--model")
    elif name in NEEDS_NAME:
        field = NEEDS_NAME[name]
        arguments["model"] = _named(name, getattr(settings, field), "--" + field.replace("_", "-"))
    if name == "probe":
        arguments["weights"] = _named(name, settings.probe, "--probe")
    if name == "provence":
        arguments["trust_remote_code"] = settings.trust_remote_code
    return (baseline_class(name) if name in BASELINES else scorer_class(name)).load(**arguments)


def _named(name: str, value: str | None, option: str) -> str:
    if value is None:
        raise ModelLoadError(f"{name} needs a model: name one by {option}")
    return value
