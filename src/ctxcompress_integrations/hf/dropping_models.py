"""Which encoders token samplers can be put into, and how their layers are told of fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import patchable
from ctxcompress_integrations.nn.token_sampler import TokenSampler

PLAIN = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
RELATIVE = ("deberta-v2",)
_LEAST = 1e-20
"""Added to a decision before its logarithm, so that a dropped key has a gradient."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """The parts of a model that are touched.

    Attributes:
        model: the outermost transformers model.
        body: the part that embeds tokens and runs layers.
        layers: in order.
        n_heads: of its attention.
    """

    model: PreTrainedModel
    body: PreTrainedModel
    layers: tuple[nn.Module, ...]
    n_heads: int

    def mask(self, is_kept: Tensor, states: Tensor) -> Tensor | None:
        """What a layer takes as its mask when row b may attend to ``is_kept`` ``[b, m]``."""
        b, m = is_kept.shape
        if self.model.config.model_type in RELATIVE:
            return is_kept[:, None, None].expand(b, 1, m, m)
        if bool(is_kept.all()):
            return None
        mask = is_kept[:, None, None].expand(b, 1, m, m)
        if self.body.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)

    def soft_mask(self, keep: Tensor) -> Tensor:
        """The logarithm of decisions ``[b, n]`` with gradient, for adding to scores: ``keep e^s`` is what follows.

        Raises:
            UnsupportedModelError: the family's layers add no mask.
        """
        if self.model.config.model_type in RELATIVE:
            raise UnsupportedModelError(
                f"samplers cannot be trained inside {type(self.model).__name__}: its attention takes masks that have "
                "no gradient; call eval(), or train on a BERT"
            )
        b, n = keep.shape
        return (keep.float() + _LEAST).log().to(keep.dtype)[:, None, None].expand(b, 1, n, n)

    def moved(self, rest: Mapping[str, Any], at: Tensor) -> dict[str, Any]:
        """A layer's other arguments for tokens ``at`` ``[b, m]`` of each row."""
        positions = rest.get("relative_pos")
        if positions is None:
            return dict(rest)
        square = positions.reshape(positions.shape[-2:])  # [n, n]
        of_rows = square[at[:, :, None], at[:, None, :]]  # [b, m, m]
        # the family's attention flattens rows and heads, and takes one table for each when there is no row axis
        return {**rest, "relative_pos": of_rows.repeat_interleave(self.n_heads, dim=0)[None]}


def supported_encoder(model: nn.Module, samplers: Mapping[int, TokenSampler]) -> Encoder:
    """The parts of ``model`` that Infor-Coef changes.

    Raises:
        UnsupportedModelError: it cannot be patched; the message says why.
        ValueError: samplers of another width or dtype, or for layers that it does not have.
    """
    found = patchable(model)
    config = found.config
    why = _why_not(config, samplers)
    if why is not None:
        raise UnsupportedModelError(
            f"Infor-Coef cannot be put into {type(found).__name__}: {why}. Families that it knows: "
            f"{', '.join(PLAIN + RELATIVE)}"
        )
    body: Any = next(p for p in found.modules() if isinstance(p, PreTrainedModel) and hasattr(p, "encoder"))
    layers = tuple(body.encoder.layer)
    for index, sampler in samplers.items():
        if not 0 <= index < len(layers) or sampler.down.in_features != config.hidden_size:
            raise ValueError(
                f"{type(found).__name__} has {len(layers)} layers of width {config.hidden_size}, got a sampler of "
                f"width {sampler.down.in_features} for layer {index}"
            )
        if sampler.down.weight.dtype != found.dtype:
            raise ValueError(
                f"{type(found).__name__} computes in {found.dtype}, got a sampler in {sampler.down.weight.dtype} for "
                f"layer {index}: make them alike with sampler.to(model.dtype)"
            )
    return Encoder(found, body, layers, int(config.num_attention_heads))


def _why_not(config: Any, samplers: Mapping[int, TokenSampler]) -> str | None:
    """Why a config's models cannot be patched; None when they can."""
    if config.model_type not in PLAIN + RELATIVE:
        if getattr(config, "is_encoder_decoder", False):
            return "it is an encoder-decoder"
        return f"nobody has checked the family {config.model_type!r}"
    if getattr(config, "is_decoder", False):
        return "it is a decoder: a token that is dropped would be missed by those that come later"
    if config.model_type in PLAIN and config._attn_implementation not in ("eager", "sdpa"):
        return f"its attention is {config._attn_implementation!r}; load it with attn_implementation='sdpa' or 'eager'"
    if getattr(config, "conv_kernel_size", 0) and 0 in samplers:
        return "its first layer is followed by a convolution over neighbours; put no sampler on layer 0"
    if getattr(config, "chunk_size_feed_forward", 0):
        return "it chunks its feed-forward layers; set chunk_size_feed_forward=0"
    return None
