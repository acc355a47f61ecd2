"""The small reader that ships with the package: all-MiniLM-L6-v2 turned into a decoder LM.

The encoder's layers look back only (``BertLMHeadModel`` with ``is_decoder``), its last states are compared with its own
word embeddings, without a map between: that is the LM head. States are as long as embeddings, a ``sqrt(d)``th of an
encoder's, and the head multiplies by ``sqrt(d)``, as Gemma does: a summary that is made of last states must not drown
the position that is added to it. Vocabulary and embeddings stay MiniLM's and are not in the
file; the layers were trained on a small invented world
(:mod:`~ctxcompress_integrations.training.world`), and of nothing else can it be asked.

File format: safetensors with the layers (``encoder.layer.*``) in bf16; metadata ``format``, ``version``, ``base``,
``base_sha256``, ``sha256`` (of the tensors) and ``card`` (JSON: recipe, measures). Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.digest import tensors_digest
from ctxcompress_integrations.hf.weights_file import WeightsFormat, check_hash

FORMAT = WeightsFormat("ctxcompress-small-world", "1")
_LAYERS = "encoder.layer."


class ScaledHead(nn.Linear):
    """Logits of short states: a linear head on ``sqrt(d)`` times what it is given."""

    def forward(self, states: Tensor) -> Tensor:
        """``[..., d]`` to ``[..., v]``."""
        return super().forward(states * math.sqrt(self.in_features))


def as_decoder(base: Any, tokenizer: Any) -> Any:
    """A decoder LM that starts as an encoder: its embeddings, frozen, and its layers.

    The tokenizer learns that a text begins with its [CLS] and an answer ends with its [SEP].

    Args:
        base: a transformers ``BertModel``; its tensors are copied.
        tokenizer: its tokenizer.

    Raises:
        ValueError: another architecture.
    """
    if base.config.model_type != "bert":
        raise ValueError(f"the base must be a BERT, got {base.config.model_type!r}")
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = BertConfig(**{**base.config.to_dict(), **ends, "is_decoder": True, "tie_word_embeddings": True})
    with torch.device("meta"):
        model: Any = BertLMHeadModel(config)
        model.cls.predictions.decoder = ScaledHead(config.hidden_size, config.vocab_size)
    tensors = {name: tensor for name, tensor in base.state_dict().items() if not name.startswith("pooler.")}
    model.cls.predictions.transform = nn.Identity()
    model.to_empty(device="cpu")
    model.to(base.dtype)
    head = model.cls.predictions
    head.decoder.weight = model.bert.embeddings.word_embeddings.weight
    head.decoder.bias = head.bias
    torch.nn.init.zeros_(head.bias)
    for name, buffer in base.named_buffers():  # position and type ids, which no state dict holds
        model.bert.get_buffer(name).copy_(buffer)
    model.bert.load_state_dict(tensors)
    with torch.no_grad():
        for parameter in model.bert.encoder.layer[-1].output.LayerNorm.parameters():
            parameter.div_(math.sqrt(config.hidden_size))
    for part in (model.bert.embeddings, model.cls):
        part.requires_grad_(False)
    return model.eval()


def save(model: Any, path: Path, *, base: str, base_sha256: str, card: Mapping[str, Any]) -> None:
    """Write the layers, complete or not at all.

    Args:
        model: from :func:`as_decoder`, trained.
        path: of the file.
        base, base_sha256: the encoder that training started from.
        card: what is known of the weights, as plain JSON.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.bert.state_dict().items()
        if name.startswith(_LAYERS)
    }
    metadata = {
        "base": base,
        "base_sha256": base_sha256,
        "sha256": tensors_digest(tensors),
        "card": json.dumps(card, sort_keys=True),
    }
    FORMAT.write(path, tensors, metadata)


def card_of(path: Path) -> dict[str, Any]:
    """What is known of a weights file."""
    card: dict[str, Any] = json.loads(FORMAT.read(path)[0].get("card", "{}"))
    return card


def load(path: Path, base: Any, tokenizer: Any, *, base_sha256: str) -> tuple[Any, dict[str, Any]]:
    """``(model, card)`` of a weights file, in the dtype of the base.

    Raises:
        WeightsMismatchError: no such file, another format or version, another base, tensors that do not match their
            hash or do not fit.
    """
    metadata, tensors = FORMAT.read(path)
    check_hash(path, metadata, tensors)
    if metadata.get("base_sha256") != base_sha256:
        raise WeightsMismatchError(
            f"{path} was trained on other weights of {metadata.get('base')!r} (sha256 "
            f"{str(metadata.get('base_sha256'))[:12]}..., here {base_sha256[:12]}...): take those, or train again"
        )
    model = as_decoder(base, tokenizer)
    own = {name for name in model.bert.state_dict() if name.startswith(_LAYERS)}
    if own != tensors.keys():
        raise WeightsMismatchError(f"the tensors of {path} are not the layers of {metadata.get('base')!r}")
    try:
        model.bert.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsMismatchError(f"the tensors of {path} do not fit {metadata.get('base')!r}: {error}") from error
    return model, json.loads(metadata.get("card", "{}"))
