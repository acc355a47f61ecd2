"""Who a model is: digests of its weights and its tokenizer, whatever device or wrapper it is held in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def weights_digest(model: Any) -> str:
    """SHA-256 over a model's base weights, of their bf16 values: the same in float32 and bfloat16, PEFT or not.

    A float16 copy of float32 or bfloat16 weights is another model here: float16 rounds what is small.
    """
    digest = hashlib.sha256()
    named = {_base_name(name): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    for name in sorted(named):
        _update(digest, name, named[name].to(torch.bfloat16))  # one at a time: no second copy of a large model
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes, of tensors as they are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _update(digest, name, tensors[name])
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over a fast tokenizer's whole definition: vocabulary, merges, normalisation, special tokens."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition |= {"truncation": None, "padding": None}  # what the last call happened to set
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def _base_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(name.encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
