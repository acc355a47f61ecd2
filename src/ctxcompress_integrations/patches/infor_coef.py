"""Infor-Coef's dynamic half: a bidirectional encoder drops tokens on the way (arXiv:2305.12458).

Before a layer, its sampler decides which tokens go on. Those that do not are really gone: the layers after it compute
fewer rows. A dropped token keeps its last state, so that every token still has one to be scored by. Static pruning, the
other half, changes weights for good and is training's (``ctxcompress train infor-coef``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ctxcompress_integrations.hf.dropping import Decide, Rows, dropping
from ctxcompress_integrations.nn.token_sampler import TokenSampler, Trace

__all__ = ["InforCoef", "TokenSampler", "token_samplers"]


class InforCoef:
    """A patch: ``with InforCoef(samplers)(model): model(input_ids, attention_mask)``.

    Inside, evaluation removes tokens and training draws decisions with gradients, whose terms of the loss
    :func:`~ctxcompress_integrations.nn.token_sampler.norm_term` and ``entropy_term`` take from :attr:`traces`. Padded
    batches give what single rows give. Attention maps (``output_attentions``) behind a sampler hold the kept tokens
    alone. Outside, the model is what it was, bit for bit. The samplers stay the caller's: they are no part of the
    model. One object may patch several models, and several threads may use one inside.

    Args:
        samplers: by number of the layer that they stand before; on the model's device and in its dtype.
        query_end: id of the token that ends the query ([SEP]): nothing up to its first occurrence is ever dropped.
            None keeps [CLS] alone safe.
        threshold: log-odds above which a token is kept in evaluation; 0 as in training.

    Raises:
        ValueError: no samplers; on entry, samplers that do not fit the model.
        UnsupportedModelError: on entry, before anything is changed: the model is of no family that can be patched, is
            compiled, or is inside this patch already.
    """

    def __init__(
        self, samplers: Mapping[int, TokenSampler], *, query_end: int | None = None, threshold: float = 0.0
    ) -> None:
        if not samplers:
            raise ValueError("Infor-Coef needs a sampler for one layer at least, got none")
        self.samplers, self.query_end, self.threshold = dict(samplers), query_end, threshold
        self._rows = Rows()

    @contextmanager
    def __call__(self, model: Any) -> Iterator[Any]:
        """Patch an encoder that the caller owns; gives the model itself."""
        decide = Decide(self.samplers, self.query_end, self.threshold)
        with dropping(model, decide, self._rows):
            yield model

    @property
    def traces(self) -> list[Trace]:
        """What the samplers saw and decided in this thread's last training forward, padding left out."""
        return self._rows.traces

    def __repr__(self) -> str:
        layers = ", ".join(map(str, sorted(self.samplers)))
        return f"InforCoef(layers [{layers}], query_end={self.query_end}, threshold={self.threshold})"


def token_samplers(
    model: Any, layers: Sequence[int], *, n_inner: int = 16, start: float = 10.0, seed: int = 0
) -> dict[int, TokenSampler]:
    """Fresh samplers for some layers of a model, on its device and in its dtype.

    Args:
        model: an encoder.
        layers: their numbers.
        n_inner: width of the bottleneck.
        start: log-odds at the start, which keep everything.
        seed: decides the weights; the global generator is left alone.
    """
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {i: TokenSampler(model.config.hidden_size, n_inner, start=start) for i in layers}
    return {i: sampler.to(parameter.device, parameter.dtype) for i, sampler in made.items()}
