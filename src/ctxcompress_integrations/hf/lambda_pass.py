"""What one layer computes under LM-Infinite: queries and keys in their places, the cache kept, attention or a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NoReturn

import torch
from torch import Tensor

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.lambda_cache import LambdaLayer
from ctxcompress_integrations.hf.lambda_models import Decoder
from ctxcompress_integrations.nn.lambda_attention import Queries, lambda_attention, lambda_step
from ctxcompress_integrations.nn.lambda_flex import flex_lambda_attention
from ctxcompress_integrations.nn.lambda_mask import LambdaShape, Starts, gather_sinks
from ctxcompress_integrations.nn.lambda_parts import (
    Frame,
    Middle,
    Sinks,
    best_of_middle,
    grouped_logits,
    lambda_row,
    rotate,
)

GPU_FROM, GPU_WIDTH = 128, 16
"""New tokens in one forward, and width of a head, from which on a GPU the band is compiled."""


@dataclass(frozen=True, eq=False)
class Phases:
    """``cos`` and ``sin``, float32 ``[1, 1, d]``, that move a query from its key's place to the ceiling, and to the
    middle's distance. A scaling that the model puts on its phases counts twice, as it does for a query and its key.
    """

    far: tuple[Tensor, Tensor]
    middle: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, decoder: Decoder, shape: LambdaShape) -> Phases | None:
        """From the model's own rotary module, so that every scaling of it counts; None under ALiBi."""
        if decoder.rotary is None:
            return None
        device = decoder.rotary.inv_freq.device
        at = torch.tensor([[0, shape.n_local, shape.middle_distance]], device=device)
        with torch.no_grad():
            cos, sin = decoder.rotary(torch.zeros(1, device=device), at)
        scale = cos[:, :1]  # of position 0
        far, middle = ((cos[:, i : i + 1] * scale, sin[:, i : i + 1] * scale) for i in (1, 2))
        return cls(far, middle)


@dataclass(frozen=True, eq=False)
class Patch:
    """What is the same in every forward of one layer."""

    shape: LambdaShape
    index: int
    rows_see_all: bool
    phases: Phases | None
    slopes: Tensor | None

    def __reduce__(self) -> NoReturn:
        raise UnsupportedModelError(
            "a model inside LM-Infinite is not copied or pickled: the copy would stay patched; leave the block first"
        )


@dataclass(frozen=True, eq=False)
class Padding:
    """What our mask function makes instead of a mask: where rows begin, and whether anybody said so."""

    starts: Starts = field(default_factory=Starts)
    is_given: bool = False

    def to(self, *_: object) -> Padding:
        """Itself: MPT turns its mask into bools."""
        return self

    def contiguous(self) -> NoReturn:
        """Refused: ``generate`` lays masks out beforehand only for caches of a fixed size."""
        raise ValueError("LM-Infinite fills a plain DynamicCache, no static one: leave out cache_implementation")


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward of one layer: its cache, None without, and its phases ``[b or 1, q, d]``, None under ALiBi."""

    patch: Patch
    layer: LambdaLayer | None
    phases: tuple[Tensor, Tensor] | None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: object, *, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        """``[b, h, q, d]`` of unrotated queries ``[b, h, q, d]``, keys and values ``[b, h_kv, q, d]``."""
        if dropout:
            raise ValueError(f"LM-Infinite computes no attention dropout, got {dropout}: set it to 0 or call eval()")
        if not isinstance(mask, Padding):
            raise ValueError(
                f"LM-Infinite takes padding masks of two dimensions, [b, n]; got {type(mask).__name__} "
                f"{tuple(getattr(mask, 'shape', ()))}"
            )
        layer, starts = self.layer, mask.starts
        if layer is not None:
            starts = layer.starts = mask.starts if mask.is_given else layer.starts
        start = layer.seen if layer is not None else 0
        frame = Frame(self.patch.shape, start, starts, scaling, self.patch.slopes)
        local, queries = self._rotated(key), Queries(self._rotated(query), query)
        sinks, middle = self._kept(query, key, value, starts)
        if layer is not None:
            before = layer.window() if query.shape[2] > 1 else None
            ring = layer.write(local, value)
            if query.shape[2] == 1:
                return lambda_step(queries, *ring, sinks, frame, middle)
            if before is not None:
                local, value = torch.cat([before[0], local], dim=2), torch.cat([before[1], value], dim=2)
        if middle is None and _takes_flex(query, frame):
            return flex_lambda_attention(queries, local, value, sinks, frame)
        return lambda_attention(queries, local, value, sinks, frame, middle)

    def row(self, query: Tensor, key: Tensor, mask: object, at: Tensor, *, scaling: float) -> Tensor:
        """One query's attention to each token, float32 ``[b, h, n]``; ``at`` ``[b]`` is its column."""
        if self.layer is not None or not isinstance(mask, Padding):
            raise UnsupportedModelError(
                "attention rows under LM-Infinite are read without a cache and without 4-D masks"
            )
        (b, h, n, _), shape = query.shape, self.patch.shape
        batch = torch.arange(b, device=query.device)
        query = query[batch, :, at][:, :, None]
        own = query
        if self.phases is not None:
            own = rotate(query, *(phase.expand(b, -1, -1)[batch, at][:, None] for phase in self.phases))
        looking = self._moved(query, "middle")
        local, far, middle = (
            grouped_logits(one.float(), keys.float(), scaling).view(b, h, n)
            for one, keys in ((own, self._rotated(key)), (self._moved(query, "far"), key), (looking, key))
        )
        if not self.patch.rows_see_all:
            middle = middle.masked_fill(~self._looked_at(looking, key, mask.starts, at, scaling), -torch.inf)
        return lambda_row(local, far, middle, shape=shape, at=at, starts=mask.starts)

    def _looked_at(self, query: Tensor, key: Tensor, starts: Starts, at: Tensor, scaling: float) -> Tensor:
        """Bool ``[b, h, n]``: the keys of the middle that :meth:`attend` adds for queries ``[b, h, 1, d]`` in ``at``.
        Each row by itself and found the same way: of keys that tie the same ones.
        """
        shape, (b, h) = self.patch.shape, query.shape[:2]
        looked = torch.zeros(b, h, key.shape[2], dtype=torch.bool, device=key.device)
        k = shape.middle_of(self.patch.index)
        for row, column in enumerate(at.tolist() if k else []):
            first = 0 if starts.first is None else int(starts.first[row])
            keys = key[row : row + 1, :, first:]
            frame = Frame(shape, 0, Starts(), scaling)
            found = best_of_middle(Middle(query[row : row + 1], keys, keys, k), column - first, frame)
            if found is not None:
                looked[row].scatter_(1, found[1].view(h, -1) + first, value=True)
        return looked

    def _rotated(self, x: Tensor) -> Tensor:
        """Queries or keys at their own positions."""
        return x if self.phases is None else rotate(x, *self.phases)

    def _moved(self, x: Tensor, place: Literal["far", "middle"], *, back: bool = False) -> Tensor:
        """Unrotated queries away from unrotated keys, or keys ``back`` from queries, which is the same."""
        if self.patch.phases is None:
            return x
        cos, sin = (phase.to(x.device, x.dtype) for phase in getattr(self.patch.phases, place))
        return rotate(x, cos, -sin if back else sin)

    def _kept(self, query: Tensor, key: Tensor, value: Tensor, starts: Starts) -> tuple[Sinks, Middle | None]:
        """Sinks and middle, of the cache or of these tokens alone."""
        shape, layer = self.patch.shape, self.layer
        if layer is not None:
            sinks = layer.sinks(key, value)
        else:
            sinks = Sinks(*(gather_sinks(t, None, 0, shape.n_global, starts) for t in (key, value)))
        sinks = Sinks(self._moved(sinks.key, "far", back=True), sinks.value)
        n_middle = shape.middle_of(self.patch.index)
        if not n_middle:
            return sinks, None
        key, value = layer.everything(key, value) if layer is not None else (key, value)
        return sinks, Middle(self._moved(query[:, :, -1:], "middle"), key, value, n_middle)


def _takes_flex(query: Tensor, frame: Frame) -> bool:
    """Whether the band is compiled for queries ``[b, h, q, d]``."""
    n_new, width = query.shape[2:]
    is_large = n_new >= GPU_FROM and width >= GPU_WIDTH
    return query.is_cuda and is_large and frame.slopes is None and not frame.is_plain(n_new)
