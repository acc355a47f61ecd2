"""A cache layer of constant size for LM-Infinite: sinks and a ring of the last keys, whatever was seen before.

transformers asks a cache how many tokens it has *seen* to number the next ones; what it has *stored* stops growing at
``n_global + n_local`` keys. Layers that look at the middle keep all keys unrotated besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from ctxcompress_integrations.nn.lambda_mask import LambdaShape, Starts, gather_sinks
from ctxcompress_integrations.nn.lambda_parts import Sinks

_TENSORS = ("keys", "values", "sink_keys", "sink_values", "all_keys", "all_values")


class LambdaLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """What one layer remembers.

    Attributes:
        keys, values: ``[b, h_kv, k, d]``, the ring: column ``c`` lies at ``c % n_local``; ``k`` grows to ``n_local``.
            Keys are rotated to their own positions.
        sink_keys, sink_values: ``[b, h_kv, n_global, d]``, keys unrotated.
        all_keys, all_values: ``[b, h_kv, n, d]``, or None in layers that do not look at the middle.
        seen: tokens that went by.
        starts: where rows begin, as the last forward with a mask said.
    """

    is_sliding = False

    sink_keys: Tensor | None
    sink_values: Tensor | None
    all_keys: Tensor | None
    all_values: Tensor | None

    def __init__(self, shape: LambdaShape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shape = shape
        self.reset()

    def reset(self) -> None:
        for name in _TENSORS:
            setattr(self, name, None)
        self.seen, self.starts, self.is_initialized = 0, Starts(), False

    def sinks(self, key: Tensor, value: Tensor) -> Sinks:
        """The sinks, those among the new tokens included: ``key`` ``[b, h_kv, q, d]`` unrotated."""
        n = self.shape.n_global
        self.sink_keys = gather_sinks(key, self.sink_keys, self.seen, n, self.starts)
        self.sink_values = gather_sinks(value, self.sink_values, self.seen, n, self.starts)
        return Sinks(self.sink_keys, self.sink_values)

    def everything(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Unrotated keys and values of every token so far, the new ones included, for the look at the middle."""
        self.all_keys = key if self.all_keys is None else torch.cat([self.all_keys, key], dim=2)
        self.all_values = value if self.all_values is None else torch.cat([self.all_values, value], dim=2)
        return self.all_keys, self.all_values

    def window(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the last ``n_local - 1`` tokens, in order; None before the first."""
        n = min(self.seen, self.shape.n_local - 1)
        if not n or self.keys is None or self.values is None:
            return None
        order = torch.arange(self.seen - n, self.seen, device=self.keys.device) % self.shape.n_local
        return self.keys.index_select(2, order), self.values.index_select(2, order)

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put new tokens ``[b, h_kv, q, d]`` into the ring; what of the ring is filled."""
        n_local, n_new = self.shape.n_local, key.shape[2]
        self.lazy_initialization(key, value)
        self._reserve(min(n_local, self.seen + n_new))
        kept = min(n_new, n_local)
        slots = torch.arange(self.seen + n_new - kept, self.seen + n_new, device=key.device) % n_local
        assert self.keys is not None and self.values is not None  # noqa: S101, PT018 - for the type checker
        if self.keys.is_inference() and not torch.is_inference_mode_enabled():  # such tensors cannot be written to
            self.keys, self.values = self.keys.clone(), self.values.clone()
        self.keys.index_copy_(2, slots, key[:, :, -kept:])
        self.values.index_copy_(2, slots, value[:, :, -kept:])
        self.seen += n_new
        filled = min(self.seen, n_local)
        return self.keys[:, :, :filled], self.values[:, :, :filled]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states[:, :, :0].clone(), value_states[:, :, :0].clone()
            self.is_initialized = True

    def _reserve(self, n: int) -> None:
        """Room for ``n`` columns: doubled while it grows, so that a short text costs little."""
        held = 0 if self.keys is None else self.keys.shape[2]
        if held < n:
            room = min(self.shape.n_local, max(n, 2 * held, 64))
            self.keys, self.values = (
                torch.cat([t, t.new_zeros(*t.shape[:2], room - held, t.shape[3])], dim=2)
                for t in (self.keys, self.values)
                if t is not None
            )

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: only a model inside the patch can read what is here."""
        raise ValueError(
            "this cache was filled under LM-Infinite and only reads on inside it; start a new cache for the plain model"
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Refused unless nothing is removed: what left the ring cannot come back."""
        if tokens_to_remove:
            raise ValueError(
                f"crop({tokens_to_remove}) on a cache of LM-Infinite, which has forgotten what would come back; "
                "assisted generation is not possible inside it"
            )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._rows(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._rows(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._rows(lambda t: t[indices.to(t.device)])

    def offload(self) -> NoReturn:
        raise ValueError("a cache of LM-Infinite is small and stays on its device: do not offload it")

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, change(tensor))
        if self.starts.first is not None:
            self.starts = Starts(change(self.starts.first), self.starts.least, self.starts.most)


def lambda_layer(cache: Cache, index: int, shape: LambdaShape) -> LambdaLayer:
    """Layer ``index`` of a cache, ours: an empty layer that grows is replaced.

    Raises:
        ValueError: the cache is of another kind, was filled outside the patch, or under another shape.
    """
    if not isinstance(cache, DynamicCache) or cache.offloading:
        raise ValueError(
            f"LM-Infinite fills a plain DynamicCache, got {'an offloaded ' * cache.offloading}{type(cache).__name__}: "
            "leave out past_key_values and cache_implementation"
        )
    while len(cache.layers) <= index:
        cache.layers.append(LambdaLayer(shape))
    layer = cache.layers[index]
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and cache.get_seq_length(index) == 0:
        layer = cache.layers[index] = LambdaLayer(shape)
    if not isinstance(layer, LambdaLayer) or layer.shape != shape:
        raise ValueError(
            "this cache was filled outside the patch, or under another LMInfinite: the keys in it do not fit; start "
            "with an empty one"
        )
    return layer
