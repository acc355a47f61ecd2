"""A fresh LoRA adapter on somebody's model, for as long as it is trained; afterwards the model is as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.hf.borrow import lock_of

ATTENTION = {
    "bert": ("query", "key", "value", "attention.output.dense"),
    "gpt2": ("c_attn", "attn.c_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense"),
}
"""Names of the attention's linear layers by model type, where they are not the usual ones."""
USUAL = ("q_proj", "k_proj", "v_proj", "o_proj")


@contextmanager
def learning(model: Any, *, rank: int, alpha: float, dropout: float, layers: Sequence[str] | None) -> Iterator[Any]:
    """The model in a PEFT wrapper whose LoRA matrices alone learn, in float32, and whose dropout alone is on.

    Args:
        model: a decoder LM; nobody else may use it meanwhile.
        rank, alpha, dropout: of the adapter.
        layers: names of the linear layers that it is put on; None for the attention's.
    """
    peft = require("peft", extra="torch")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(layers or ATTENTION.get(model.config.model_type, USUAL)),
        task_type="CAUSAL_LM",
    )
    attributes = set(vars(model))
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = [(module, module.training) for module in model.modules()]
    with lock_of(model):
        adapted = peft.get_peft_model(model, config)
        try:
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            for name, module in adapted.named_modules():
                module.training = "lora_dropout" in name
            yield adapted
        finally:
            adapted.unload()
            for name in set(vars(model)) - attributes:
                delattr(model, name)
            for parameter, was_trainable in trainable:
                parameter.requires_grad = was_trainable
            for module, was_training in training:
                module.training = was_training
