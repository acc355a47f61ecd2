"""Which models LM-Infinite can be put into, and where: refusals come before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import patchable
from ctxcompress_integrations.hf.lambda_alibi import bloom_forward, mpt_forward
from ctxcompress_integrations.nn.lambda_mask import LambdaShape

ROTARY = ("llama", "mistral", "qwen2", "qwen3")
ALIBI = ("bloom", "mpt")
FIXED_FREQUENCIES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, eq=False)
class Decoder:
    """The parts of a model that are touched.

    Attributes:
        model: the outermost transformers model; its configs name the attention function.
        body: the part that runs the layers.
        attentions: the attention module of each layer.
        rotary: the module that makes phases; None under ALiBi.
        slopes: ALiBi's, float32 ``[h]``; None for rotary models.
        forward: what replaces an ALiBi attention module's own.
    """

    model: PreTrainedModel
    body: PreTrainedModel
    attentions: tuple[nn.Module, ...]
    rotary: Any = None
    slopes: Tensor | None = None
    forward: Callable[..., Any] | None = None


def supported_decoder(model: nn.Module, shape: LambdaShape) -> Decoder:
    """The parts of ``model`` that LM-Infinite changes.

    Raises:
        UnsupportedModelError: it cannot be patched; the message says why.
    """
    found = patchable(model)
    config = found.config.get_text_config(decoder=True)
    why = _why_not(config, shape) if config is found.config else "its decoder is one of several parts"
    if why is not None:
        raise UnsupportedModelError(
            f"LM-Infinite cannot be put into {type(found).__name__}: {why}. Families that it knows: "
            f"{', '.join(ROTARY + ALIBI)}"
        )
    if config.model_type in ROTARY:
        body = _body(found, "layers")
        return Decoder(found, body, tuple(layer.self_attn for layer in body.layers), rotary=body.rotary_emb)
    heads, device = int(config.num_attention_heads), found.device
    if config.model_type == "bloom":
        slopes = build_alibi_tensor(torch.ones(1, 2, device=device), heads, torch.float32)[:, 0, 1]
        body = _body(found, "h")
        attentions = tuple(block.self_attention for block in body.h)
        return Decoder(found, body, attentions, slopes=slopes, forward=bloom_forward)
    body = _body(found, "blocks")
    slopes = -body.build_mpt_alibi_tensor(heads, 2, device=device)[:, 0, 0]  # as in its forward, without alibi_bias_max
    attentions = tuple(block.attn for block in body.blocks)
    return Decoder(found, body, attentions, slopes=slopes.float(), forward=mpt_forward)


def _why_not(config: Any, shape: LambdaShape) -> str | None:
    """Why a config's models cannot be patched; None when they can."""
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    linear = sorted(kind for kind in kinds if "linear" in kind or kind in ("conv", "mamba", "recurrent"))
    if linear or config.model_type in ("mamba", "mamba2", "rwkv"):
        return f"it has layers without softmax attention ({linear[0] if linear else config.model_type})"
    if config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if config.model_type in ROTARY:
        if window is not None and window < shape.n_local:
            return (
                f"its sliding window of {window} keys is shorter than n_local={shape.n_local}; take n_local <= {window}"
            )
        kind = (config.rope_parameters or {}).get("rope_type", "default")
        if kind not in FIXED_FREQUENCIES:
            return f"its rotary frequencies change with the length (rope_type={kind!r}), so no distance is constant"
        return None
    if config.model_type in ALIBI:
        return None if config.model_type == "bloom" or config.attn_config.alibi else "it has learned absolute positions"
    if window is not None and (not kinds or "sliding_attention" in kinds):
        return f"it has layers with a sliding window of {window} keys"
    if config.model_type in ("gpt2", "opt", "gpt_bigcode", "gpt_neo", "xglm", "biogpt", "codegen") or hasattr(
        config, "n_positions"
    ):
        return "its positions are absolute (learned for each place), so no distance can be held"
    return f"nobody has checked the family {config.model_type!r}"


def _body(model: PreTrainedModel, layers: str) -> Any:
    """The module that holds the layers: the model itself or a part of it."""
    return next(part for part in model.modules() if isinstance(part, PreTrainedModel) and hasattr(part, layers))
