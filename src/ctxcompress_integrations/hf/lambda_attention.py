"""LM-Infinite inside a transformers model that somebody else owns, touched only inside ``with``.

Rotary families go through transformers' attention interface. A hook before each attention module keeps the phases and
the cache for itself and hands the module phases that rotate nothing, so the attention function gets queries and keys as
they were projected, rotates them itself and, where the paper wants them at the ceiling, differently. ALiBi families
compute attention inside their modules: there the module's ``forward`` is replaced (``hf/lambda_alibi.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.attention import implementation
from ctxcompress_integrations.hf.borrow import lock_of, replaced
from ctxcompress_integrations.hf.lambda_cache import lambda_layer
from ctxcompress_integrations.hf.lambda_models import supported_decoder
from ctxcompress_integrations.hf.lambda_pass import Padding, Pass, Patch, Phases
from ctxcompress_integrations.nn.lambda_mask import LambdaShape, starts_of

NAME = "ctxcompress_lambda"


@contextmanager
def lambda_window(model: nn.Module, shape: LambdaShape, *, rows_see_all: bool = False) -> Iterator[None]:
    """Inside, the model reads through the Λ-mask; on exit it is what it was, whatever happened.

    The lock is held to enter and to leave, not in between: what the caller's block waits for may itself wait for the
    lock in a thread of its own, as a reader that streams does. A caller who does no such thing holds it around.

    Args:
        model: a decoder of a supported family, bare or wrapped (PEFT).
        shape: sizes of the Λ.
        rows_see_all: whether :func:`~ctxcompress_integrations.hf.attention.trigger_rows` shows attention to *every*
            token, the middle at ``shape.middle_distance``; else what the model itself computes.

    Raises:
        UnsupportedModelError: the model cannot be patched, or is patched already; nothing was changed.
    """
    with lock_of(model):
        decoder = supported_decoder(model, shape)
        if any(isinstance(hook, Hook) for part in decoder.attentions for hook in part._forward_pre_hooks.values()):
            raise UnsupportedModelError(
                f"this {type(decoder.model).__name__} is inside LM-Infinite already: leave the first block before "
                "entering another"
            )
        undo = ExitStack()
        with undo:
            undo.enter_context(implementation(decoder.model, NAME))
            # traced, transformers asks for other masks: torch.compile inside the block leaves this part out
            untraced = torch.compiler.disable(decoder.body.forward)  # type: ignore[no-untyped-call]
            undo.enter_context(replaced(decoder.body, untraced))
            phases = Phases.of(decoder, shape)
            for index, module in enumerate(decoder.attentions):
                hook = Hook(Patch(shape, index, rows_see_all, phases, decoder.slopes), decoder.model.config)
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                if decoder.forward is not None:
                    undo.enter_context(replaced(module, decoder.forward.__get__(module)))
            kept = undo.pop_all()
    try:
        yield
    finally:
        with lock_of(model):
            kept.close()


@dataclass(frozen=True, eq=False)
class Hook:
    """Runs before an attention module and adds a :class:`Pass` to its arguments; ``config`` is the model's."""

    patch: Patch
    config: PreTrainedConfig

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        chosen = self.config._attn_implementation
        if chosen is None or not chosen.endswith(NAME):  # a name that captures rows ends with it, too
            raise UnsupportedModelError(
                f"the attention implementation became {chosen!r} inside LM-Infinite, which needs its own: change it "
                "before the block"
            )
        name = "layer_past" if "layer_past" in kwargs else "past_key_values"
        cache, patch = kwargs.get(name), self.patch
        layer = None
        if cache is not None:
            layer = lambda_layer(cache, patch.index, patch.shape)
        phases = kwargs.get("position_embeddings")
        changed: dict[str, Any] = {name: None, "lambda_pass": Pass(patch, layer, phases)}
        if phases is not None:
            one = phases[0].new_ones(1, 1, phases[0].shape[-1])
            changed["position_embeddings"] = (one, torch.zeros_like(one))
        return args, kwargs | changed


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    lambda_pass: Pass | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    if lambda_pass is None:
        raise UnsupportedModelError(
            f"this {type(module).__name__} shares its config with a model inside LM-Infinite: give each model a config "
            "of its own (copy.deepcopy)"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = lambda_pass.attend(query, key, value, attention_mask, scaling=scale, dropout=dropout)
    return mixed.transpose(1, 2).contiguous(), None


def _mask(
    *,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **_: Any,
) -> Padding:
    if not allow_is_causal_skip:
        raise ValueError(
            "LM-Infinite reads one text per row into a plain DynamicCache: packed sequences, custom masks and static "
            "caches are not possible"
        )
    if attention_mask is not None and attention_mask.shape[-1] != kv_length:
        raise ValueError(
            f"the attention mask has {attention_mask.shape[-1]} columns for {kv_length - q_length} tokens seen before "
            f"and {q_length} new ones"
        )
    return Padding(starts_of(attention_mask), attention_mask is not None)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
