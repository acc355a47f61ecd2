"""Token samplers inside a transformers encoder that somebody else owns, touched only inside ``with``.

Each layer's ``forward`` is replaced: in evaluation the kept tokens of each row are gathered, padded to the longest row,
run through the layer as it is, and put back in their places; in training every token runs and a key's decision is added
to the attention scores as ``log keep``. Which tokens are real, and where the query ends, a hook before the model sees.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import lock_of, replaced
from ctxcompress_integrations.hf.dropping_models import Encoder, supported_encoder
from ctxcompress_integrations.nn.token_sampler import Draw, TokenSampler, Trace, draw


class Rows(threading.local):
    """What one forward knows of its tokens; each thread has its own.

    Attributes:
        keep: bool ``[b, n]`` in evaluation; False at padding.
        drawn: decisions ``[b, n]`` in training.
        is_real, is_safe: bool ``[b, n]``: no padding; never dropped.
        traces: of the last training forward.
    """

    keep: Tensor | None = None
    drawn: Draw | None = None
    is_real: Tensor | None = None
    is_safe: Tensor | None = None
    traces: list[Trace]

    def __init__(self) -> None:
        self.traces = []


@dataclass(frozen=True, eq=False)
class Decide:
    """How it is decided who stays.

    Attributes:
        samplers: by layer.
        query_end: token id up to which, its first occurrence, tokens are never dropped; None for [CLS] alone.
        threshold: log-odds above which a token is kept.
    """

    samplers: Mapping[int, TokenSampler]
    query_end: int | None
    threshold: float


@dataclass(frozen=True, eq=False)
class Dropping:
    """The parts of one patched model, and what its forwards see."""

    encoder: Encoder
    decide: Decide
    rows: Rows

    def __reduce__(self) -> NoReturn:
        raise UnsupportedModelError(
            "a model inside Infor-Coef is not copied or pickled: the copy would stay patched; leave the block first"
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Runs before the model: which tokens are real, and which are safe."""
        ids = args[0] if args else kwargs.get("input_ids")
        mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        if ids is None:
            raise ValueError("inside Infor-Coef the model needs input_ids, got none: they say where the query ends")
        if mask is not None and mask.dim() != 2:
            raise ValueError(f"Infor-Coef takes padding masks [b, n], got {tuple(mask.shape)}")
        is_real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        is_first = is_real & (is_real.cumsum(dim=1) == 1)
        is_safe = is_first
        if self.decide.query_end is not None:
            is_end = (ids == self.decide.query_end) & is_real
            is_query = (is_end.cumsum(dim=1) - is_end.long() == 0) & is_end.any(dim=1, keepdim=True)
            is_safe = is_first | (is_query & is_real)
        rows = self.rows
        rows.is_real, rows.is_safe, rows.keep, rows.drawn, rows.traces = is_real, is_safe, is_real, None, []

    def layer(self, index: int, forward: Any, states: Tensor, mask: Any, args: tuple[Any, ...], rest: Any) -> Any:
        """One layer: ``forward`` is its own, ``states`` ``[b, n, d]``."""
        rows, sampler = self.rows, self.decide.samplers.get(index)
        if rows.is_real is None or rows.is_safe is None or rows.keep is None:
            raise UnsupportedModelError("layers inside Infor-Coef run from their model only, not by themselves")
        if self.encoder.model.training:
            return self._trained(sampler, forward, states, mask, args, rest)
        keep = rows.keep
        if sampler is not None:
            keep = rows.keep = keep & ((sampler(states) > self.decide.threshold) | rows.is_safe)
        if torch.equal(keep, rows.is_real):
            return forward(states, mask, *args, **rest)
        lengths = keep.sum(dim=1)
        at = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lengths.max())]  # [b, m]
        is_kept = keep.gather(1, at)
        place = at[..., None].expand(-1, -1, states.shape[-1])
        few = states.gather(1, place)
        out = forward(few, self.encoder.mask(is_kept, few), *args, **self.encoder.moved(rest, at))
        new = out[0] if isinstance(out, tuple) else out
        whole = states.scatter(1, place, torch.where(is_kept[..., None], new, few))
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    def _trained(
        self, sampler: TokenSampler | None, forward: Any, states: Tensor, mask: Any, args: tuple[Any, ...], rest: Any
    ) -> Any:
        rows = self.rows
        is_real: Any = rows.is_real
        is_safe: Any = rows.is_safe
        if sampler is not None:
            rows.drawn = draw(sampler(states)).joined(rows.drawn, is_safe)
            rows.traces.append(Trace(states[is_real], Draw(*(part[is_real] for part in rows.drawn))))
        if rows.drawn is None:
            return forward(states, mask, *args, **rest)
        keep = rows.drawn.hard * is_real
        out = forward(states, self.encoder.soft_mask(keep), *args, **rest)
        new = out[0] if isinstance(out, tuple) else out
        held = states + keep[..., None] * (new - states)
        return (held, *out[1:]) if isinstance(out, tuple) else held


@contextmanager
def dropping(model: nn.Module, decide: Decide, rows: Rows) -> Iterator[None]:
    """Inside, the model drops tokens; on exit it is what it was, whatever happened.

    Raises:
        UnsupportedModelError: the model cannot be patched, or is patched already; nothing was changed.
    """
    with lock_of(model):
        encoder = supported_encoder(model, decide.samplers)
        if any(isinstance(layer.__dict__.get("forward"), _Forward) for layer in encoder.layers):
            raise UnsupportedModelError(
                f"this {type(encoder.model).__name__} is inside Infor-Coef already: leave the first block before "
                "entering another"
            )
        patch = Dropping(encoder, decide, rows)
        undo = ExitStack()
        with undo:
            undo.callback(encoder.body.register_forward_pre_hook(patch.before, with_kwargs=True).remove)
            for index, layer in enumerate(encoder.layers):
                undo.enter_context(replaced(layer, _Forward(patch, index, layer.forward)))
            kept = undo.pop_all()
    try:
        yield
    finally:
        with lock_of(model):
            kept.close()


class _Forward:
    """What stands in a layer's instance as its ``forward``; like :meth:`Dropping.before` not for tracing, because what
    they tell each other is a thread's own, and traced code would keep what it saw once.
    """

    def __init__(self, patch: Dropping, index: int, forward: Any) -> None:
        self.patch, self.index, self.forward = patch, index, forward

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **rest: Any) -> Any:
        return self.patch.layer(self.index, self.forward, hidden_states, attention_mask, args, rest)
