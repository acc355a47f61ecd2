"""The trained ``mini`` model as a file: some layers of its base encoder fine-tuned, and late-interaction heads.

File format: safetensors with the layers that were trained (``encoder.layers.*``; they may have fewer heads and neurons
than the base's), ``query.weight`` and ``passage.weight`` ``[p, d]``, ``importance.weight`` ``[1, d]``,
``shares.weight`` ``[2, d]``, ``shares.bias`` ``[2]``; metadata ``format``, ``version``, ``base``, ``base_sha256``,
``layers`` (which of the base's were taken, JSON), ``sha256`` (of the tensors) and ``card`` (JSON: recipe, data,
thresholds). What stayed frozen, the base's vocabulary, embeddings and first layers, is not in the file. Nothing is
unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.digest import tensors_digest
from ctxcompress_integrations.hf.weights_file import WeightsFormat, check_hash
from ctxcompress_integrations.nn.late_interaction import LateInteraction
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder

FORMAT = WeightsFormat("ctxcompress-mini", "1", cure="train it again")
_FROZEN = ("encoder.words.", "encoder.positions.", "encoder.norm.")
_LINEAR = {
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}


def untrained(base: Any, *, layers: Sequence[int], n_dims: int) -> LateInteraction:
    """A model with the embeddings and some layers of a BERT and fresh heads, in fp32.

    Args:
        base: a transformers ``BertModel``.
        layers: which of its layers, in order.
        n_dims: width of the compared vectors.

    Raises:
        ValueError: another architecture, a layer that it does not have, more dimensions than it has.
    """
    config = base.config
    if config.model_type != "bert" or not layers or max(layers) >= config.num_hidden_layers:
        raise ValueError(
            f"the base must be a BERT with the layers {list(layers)}, got {config.model_type!r} with "
            f"{config.num_hidden_layers} layers"
        )
    if not 1 <= n_dims <= config.hidden_size:
        raise ValueError(f"n_dims must be in [1, {config.hidden_size}], the base's width, got {n_dims}")
    encoder = _encoder_tensors(base.state_dict(), layers)
    model = _shaped({f"encoder.{name}": tensor for name, tensor in encoder.items()}, config, len(layers), n_dims)
    model.encoder.load_state_dict(encoder)
    return model


def _shaped(tensors: Mapping[str, Tensor], config: Any, n_layers: int, n_dims: int) -> LateInteraction:
    """A model of the sizes of ``tensors``, whose layers may have fewer heads and neurons than the base's."""
    width, head_width = config.hidden_size, config.hidden_size // config.num_attention_heads
    encoder = PackedEncoder(
        n_vocabulary=config.vocab_size,
        n_positions=config.max_position_embeddings,
        width=width,
        n_heads=[len(tensors[f"encoder.layers.{i}.qkv.weight"]) // (3 * head_width) for i in range(n_layers)],
        n_inner=[len(tensors[f"encoder.layers.{i}.up.weight"]) for i in range(n_layers)],
        n_layers=n_layers,
        eps=config.layer_norm_eps,
        head_width=head_width,
    )
    return LateInteraction(encoder, width=width, n_dims=n_dims)


def save(
    model: LateInteraction,
    path: Path,
    *,
    base: str,
    base_sha256: str,
    layers: Sequence[int],
    n_frozen: int,
    card: Mapping[str, Any],
) -> None:
    """Write what training changed, layers in bf16; complete or not at all.

    Args:
        model, path: what goes where.
        base, base_sha256: the encoder that training started from.
        layers: which of its layers the model has.
        n_frozen: how many of them, from the first, are as they were.
        card: what is known of the weights.
    """
    frozen = (*_FROZEN, *(f"encoder.layers.{i}." for i in range(n_frozen)))
    tensors = {
        name: tensor.detach().cpu().to(torch.bfloat16 if name.startswith("encoder.") else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(frozen)
    }
    metadata = {
        "base": base,
        "base_sha256": base_sha256,
        "layers": json.dumps(list(layers)),
        "sha256": tensors_digest(tensors),
        "card": json.dumps(card, sort_keys=True),
    }
    FORMAT.write(path, tensors, metadata)


def load(path: Path, base: Any, *, name: str, base_sha256: str) -> tuple[LateInteraction, dict[str, Any]]:
    """``(model in fp32, card)`` of a weights file, on the embeddings of the base it was trained on.

    Raises:
        WeightsMismatchError: no such file, another format or version, another base, tensors that do not match their
            hash or do not fit.
    """
    metadata, tensors = FORMAT.read(path)
    if metadata.get("base") != name:
        raise WeightsMismatchError(
            f"{path} was trained on {metadata.get('base')!r}, not {name!r}: pass model={metadata.get('base')!r}"
        )
    if metadata.get("base_sha256") != base_sha256:
        raise WeightsMismatchError(
            f"{path} was trained on other weights of {name!r} (sha256 {str(metadata.get('base_sha256'))[:12]}..., here "
            f"{base_sha256[:12]}...): take that revision, or train again"
        )
    check_hash(path, metadata, tensors)
    try:
        layers, n_dims = json.loads(metadata["layers"]), len(tensors["query.weight"])
        start = untrained(base, layers=layers, n_dims=n_dims).state_dict()
        state = {**start, **{key: tensor.float() for key, tensor in tensors.items()}}
        model = _shaped(state, base.config, len(layers), n_dims)
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsMismatchError(f"the tensors of {path} do not fit {name!r}: {error}") from error
    return model, json.loads(metadata.get("card", "{}"))


def _encoder_tensors(bert: Mapping[str, Tensor], layers: Sequence[int]) -> dict[str, Tensor]:
    """A BertModel's parameters under the names of :class:`PackedEncoder`, in fp32."""
    table = "embeddings.{}_embeddings.weight"
    found = {
        "words.weight": bert[table.format("word")],
        # every text is of the first kind: its type embedding is a constant
        "positions.weight": bert[table.format("position")] + bert[table.format("token_type")][0],
    }
    for part in ("weight", "bias"):
        found[f"norm.{part}"] = bert[f"embeddings.LayerNorm.{part}"]
        for i, layer in enumerate(layers):
            theirs, ours = f"encoder.layer.{layer}", f"layers.{i}"
            heads = [bert[f"{theirs}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            found[f"{ours}.qkv.{part}"] = torch.cat(heads)
            for name, source in _LINEAR.items():
                found[f"{ours}.{name}.{part}"] = bert[f"{theirs}.{source}.{part}"]
    return {name: tensor.float() for name, tensor in found.items()}
