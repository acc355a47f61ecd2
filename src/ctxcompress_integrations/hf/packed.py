"""Several endings behind one beginning, in one forward: what a document is asked shares the cost of the document.

A row of the batch is ``[beginning; ending 1; ending 2; ...]``. An ending sees the beginning and itself, and its
positions go on where the beginning stops, so that every ending's states are those that it would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import base_of

LONGEST_PLAIN = 512
"""Positions up to which a CPU finds gradients faster through attention written out than through its fused kernel."""


class Packed(NamedTuple):
    """One row.

    Attributes:
        rows: input vectors ``[n, d]``: the beginning and the endings, one after the other.
        n_shared: length of the beginning.
        lengths: of the endings.
    """

    rows: Tensor
    n_shared: int
    lengths: tuple[int, ...]


def packed_states(model: Any, batch: Sequence[Packed]) -> Tensor:
    """Hidden states after the final norm, ``[b, n, d]`` with ``n`` of the longest row; what follows a row is noise.

    Raises:
        UnsupportedModelError: an attention kernel that takes no mask of its own, a model without position ids, layers
            that are not all attention, or a row longer than the sliding window that only some layers have.
    """
    backbone = base_of(model).base_model
    kernel = backbone.config._attn_implementation
    if kernel not in ("sdpa", "eager") or "position_ids" not in signature(backbone.forward).parameters:
        raise UnsupportedModelError(
            f"{type(model).__name__} with the attention kernel {kernel!r} cannot read several endings at once: take a "
            "model with position ids, and call model.set_attn_implementation('sdpa')"
        )
    vectors = pad_sequence([row.rows for row in batch], batch_first=True)
    owners, positions = (
        pad_sequence(list(column), batch_first=True, padding_value=value).to(vectors.device)
        for column, value in zip(zip(*map(_layout, batch), strict=True), (-1, 0), strict=True)
    )
    n = vectors.shape[1]
    visible = (owners[:, None] == owners[:, :, None]) | (owners == 0)[:, None]
    visible &= torch.ones(n, n, dtype=torch.bool, device=vectors.device).tril()
    window = _window(backbone.config, max(row.n_shared + max(row.lengths, default=0) for row in batch))
    if window is not None:
        visible &= positions[:, :, None] - positions[:, None] < window
    hidden = torch.zeros_like(visible, dtype=vectors.dtype).masked_fill(~visible, torch.finfo(vectors.dtype).min)
    is_plain = vectors.device.type == "cpu" and n <= LONGEST_PLAIN and torch.is_grad_enabled()
    with sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext():
        states: Tensor = backbone(
            inputs_embeds=vectors, attention_mask=hidden[:, None], position_ids=positions, use_cache=False
        ).last_hidden_state
    return states


def _window(config: Any, n: int) -> int | None:
    """Positions that a token sees, itself included, where a mask has to say so: one mask is every layer's.

    Args:
        config: of the decoder.
        n: positions that are read.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise UnsupportedModelError(
            f"{config.model_type} has layers of the kind {other[0]!r} (layer_types), which cannot read several endings "
            "at once: take a model whose layers are attention"
        )
    if window is None or window >= n or (kinds and "sliding_attention" not in kinds):
        return None
    if len(kinds) > 1:
        raise UnsupportedModelError(
            f"some layers of {config.model_type} have a sliding window of {window} positions (sliding_window), and "
            f"{n} are read: give shorter or fewer passages, or take a model whose layers are alike"
        )
    return int(window)


def _layout(row: Packed) -> tuple[Tensor, Tensor]:
    """Whose each position is, 0 for the beginning, and its place, both int64 ``[n]``."""
    places = [torch.arange(row.n_shared), *(row.n_shared + torch.arange(length) for length in row.lengths)]
    owners = [torch.full((len(of_one),), i) for i, of_one in enumerate(places)]
    return torch.cat(owners), torch.cat(places)
