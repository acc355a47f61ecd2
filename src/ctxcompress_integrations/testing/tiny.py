"""Tiny seeded models with their tokenizers: real architectures, random weights, made in milliseconds, no network."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, TypeAlias, get_args

Architecture: TypeAlias = Literal["llama", "llama_gqa", "qwen2", "qwen3", "mistral", "gpt2", "phi", "gemma2", "bloom"]
Style: TypeAlias = Literal["byte", "metaspace"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = (
    "The quick brown fox jumps over the lazy dog near the river bank. "
    "Which animal jumps over the dog, and where is the river? "
    "Der schnelle braune Fuchs springt über den faulen Hund. 敏捷的棕色狐狸跳过了懒狗。 "
    "Paris is the capital of France; the tower was built in 1889 and is 330 metres tall. "
)


def tiny_tokenizer(style: Style = "byte", *, chat_template: str | None = CHATML) -> Any:
    """A fast BPE tokenizer, trained on four sentences.

    Args:
        style: "byte" (GPT-2's byte level: every text has tokens) or "metaspace" (SentencePiece's, with byte fallback).
        chat_template: ChatML by default; None for a tokenizer without a chat format.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    transformers: Any = import_module("transformers")

    specials = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    is_byte = style == "byte"
    tokenizer = Tokenizer(models.BPE(unk_token=None if is_byte else "<unk>"))
    if is_byte:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[AddedToken(s, special=True) for s in specials],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS] * 4, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106 - a token of a vocabulary, no secret
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat_template,
        model_max_length=100_000,
    )


def tiny_decoder(
    architecture: Architecture = "llama", *, seed: int = 0, n_layers: int = 3, n_positions: int = 2048
) -> Any:
    """``(model, tokenizer)`` of a decoder LM with random weights, 32 wide.

    Raises:
        ValueError: unknown architecture.
    """
    import torch

    transformers: Any = import_module("transformers")

    if architecture not in get_args(Architecture):
        raise ValueError(f"architecture must be one of {', '.join(get_args(Architecture))}, got {architecture!r}")
    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": n_positions,
        "initializer_range": 0.3,  # attention that differs between tokens, so that a wrong row shows
    }
    if architecture == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=n_layers,
            n_head=4,
            n_positions=n_positions,
            initializer_range=0.3,
        )
    elif architecture == "bloom":
        config = transformers.BloomConfig(
            vocab_size=len(tokenizer), hidden_size=32, n_layer=n_layers, n_head=4, initializer_range=0.3
        )
    elif architecture in ("llama", "llama_gqa"):
        config = transformers.LlamaConfig(**sizes | {"num_key_value_heads": 2 if architecture == "llama_gqa" else 4})
    elif architecture == "phi":
        config = transformers.PhiConfig(**sizes)
    else:
        grouped = sizes | {"num_key_value_heads": 2}
        config = {
            "qwen2": lambda: transformers.Qwen2Config(**grouped),
            "qwen3": lambda: transformers.Qwen3Config(**grouped | {"head_dim": 8}),
            "mistral": lambda: transformers.MistralConfig(**grouped | {"sliding_window": 24}),
            "gemma2": lambda: transformers.Gemma2Config(**grouped | {"head_dim": 8, "sliding_window": 24}),
        }[architecture]()
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer


def tiny_t5(*, seed: int = 0, n_layers: int = 2) -> Any:
    """``(model, tokenizer)`` of a T5 with random weights, 32 wide."""
    import torch

    transformers: Any = import_module("transformers")

    tokenizer = tiny_tokenizer("metaspace", chat_template=None)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=n_layers,
        num_heads=4,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # T5's own initialisation leaves attention almost uniform
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model, tokenizer


def tiny_encoder(*, seed: int = 0, n_layers: int = 2) -> Any:
    """``(model, tokenizer)`` of a BERT with random weights, 32 wide."""
    import torch

    transformers: Any = import_module("transformers")

    tokenizer = tiny_tokenizer("byte", chat_template=None)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    return transformers.BertModel(config).eval(), tokenizer


def tiny_small_world(*, seed: int = 0, n_layers: int = 2) -> Any:
    """``(model, tokenizer)`` of the shipped reader's kind, a BERT turned into a decoder, with random weights."""
    from ctxcompress_integrations.hf.small_world import as_decoder

    base, tokenizer = tiny_encoder(seed=seed, n_layers=n_layers)
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    return as_decoder(base, tokenizer), tokenizer
