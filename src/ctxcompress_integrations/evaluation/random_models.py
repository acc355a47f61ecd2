"""Models of true shapes with random weights, and words for them: what times and FLOPs are measured on."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ctxcompress_integrations._optional import require

LLAMA_7B: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
LLAMA_1B: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}


def random_decoder(architecture: str, config: Mapping[str, Any], *, seed: int) -> Any:
    """A decoder LM of a Hugging Face model type ("qwen2", "llama" ...) with random weights, to measure and test."""
    transformers = require("transformers", extra="torch")
    torch.manual_seed(seed)
    made = transformers.AutoConfig.for_model(architecture, **config)
    return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


def shared_llama(shape: Mapping[str, Any], device: torch.device) -> Any:
    """A Llama in bf16 whose layers share one set of weights: the work of the shape in a fraction of its memory.

    Each layer's weights exceed every cache of a processor, so that reading them costs what it does in a real model.
    """
    model = random_decoder("llama", {**shape, "num_hidden_layers": 1}, seed=0).to(device, torch.bfloat16)
    first = model.model.layers[0]
    shared = {id(parameter): parameter for parameter in first.parameters()}
    layers = nn.ModuleList(deepcopy(first, dict(shared)) for _ in range(int(shape["num_hidden_layers"])))
    for number, layer in enumerate(layers):
        attention: Any = layer.self_attn
        attention.layer_idx = number  # its own place in the cache
    model.model.layers = layers
    model.config.num_hidden_layers = len(layers)
    return model.requires_grad_(False).eval()


def word_tokenizer(n_words: int = 30000) -> Any:
    """A tokenizer for which "w0 w1 w2 ..." are single tokens."""
    tokenizers, transformers = require("tokenizers", extra="torch"), require("transformers", extra="torch")
    specials = ["<unk>", "<s>", "</s>"]
    vocabulary = {word: i for i, word in enumerate([*specials, *(f"w{i}" for i in range(n_words))])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no secret
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": specials[0], "bos_token": specials[1], "eos_token": specials[2]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, **names)
