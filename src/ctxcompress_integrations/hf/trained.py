"""The trained ``mini`` model: a tokenizer, the first layers of its base encoder fine-tuned, and late-interaction heads.

File format: safetensors with the layers (``encoder.layers.*``), ``query.weight``, ``passage.weight`` ``[p, d]``,
``importance.weight`` ``[1, d]`` and ``passage_share``; metadata ``format``, ``version``, ``base``, ``base_sha256``,
``sha256`` (of the tensors) and ``card`` (JSON: recipe, data, thresholds). The base's vocabulary and embeddings are not
in the file: they were frozen. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.encoder import TokenVectors
from ctxcompress_integrations.nn.late_interaction import LateInteraction, QueryVectors
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder, pack

FORMAT = "ctxcompress-mini"
VERSION = "1"
_FROZEN = ("encoder.words.", "encoder.positions.", "encoder.norm.")
_LINEAR = {
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}


class TrainedEncoder:
    """Token vectors of queries and passages from a :class:`LateInteraction` model.

    On a CPU only sequences of equal length share an attention product: bf16 gives bit for bit the same vectors whatever
    a text travels with. On a GPU lengths are rounded up to multiples of 16.

    Args:
        model: the trained model.
        tokenizer: of its base.
        card: what is known of the weights: recipe, data, thresholds.
        max_tokens: tokens of a text that are read, special tokens included.
        batch_tokens: tokens per forward.
    """

    def __init__(
        self,
        model: LateInteraction,
        tokenizer: Any,
        *,
        card: Mapping[str, Any] | None = None,
        max_tokens: int = 256,
        batch_tokens: int = 8192,
    ) -> None:
        self.model, self.tokenizer, self.card = model, tokenizer, dict(card or {})
        self.max_tokens, self.batch_tokens = max_tokens, batch_tokens
        self._lock = threading.Lock()  # threads queue here instead of fighting for the cores

    @property
    def passage_share(self) -> float:
        """How much the whole passage's match counts beside the sentence's."""
        return float(self.model.passage_share.detach())

    def query_vectors(self, texts: Sequence[str]) -> list[QueryVectors]:
        """Vectors and weights of each query's tokens, special tokens included, on the CPU."""
        ids = self._tokenize(texts)["input_ids"]
        with torch.no_grad():
            found = [self.model.query_vectors(states) for states in self._states(ids)]
        return [QueryVectors(q.vectors.cpu(), q.weights.cpu()) for q in found]

    def passage_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """Unit vectors ``[n, p]`` of each passage's tokens; the caller cuts texts longer than ``max_tokens``."""
        encoded = self._tokenize(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
        found = []
        for i, states in enumerate(self._states(encoded["input_ids"])):
            is_text = np.asarray(encoded["special_tokens_mask"][i]) == 0
            offsets = np.asarray(encoded["offset_mapping"][i], dtype=np.int64)[is_text]
            with torch.no_grad():
                vectors = self.model.passage_vectors(states).cpu()
            found.append(TokenVectors(offsets, vectors[torch.from_numpy(is_text)]))
        return found

    def _tokenize(self, texts: Sequence[str], **wanted: bool) -> Any:
        return self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_attention_mask=False, **wanted
        )

    def _states(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Last hidden states ``[n, d]`` of each sequence."""
        device = self.model.passage_share.device
        states: list[Tensor] = []
        for batch in _batches(sequences, self.batch_tokens):
            lengths = [len(sequence) for sequence in batch]
            ids = torch.tensor([token for sequence in batch for token in sequence], dtype=torch.long, device=device)
            blocks = [block.to(device) for block in pack(lengths, step=1 if device.type == "cpu" else 16)]
            with self._lock, torch.no_grad():
                states += self.model.encoder(ids, blocks).split(lengths)
        return states


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
    encoder = PackedEncoder(
        n_vocabulary=config.vocab_size,
        n_positions=config.max_position_embeddings,
        width=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_inner=config.intermediate_size,
        n_layers=len(layers),
        eps=config.layer_norm_eps,
    )
    encoder.load_state_dict(_encoder_tensors(base.state_dict(), layers))
    return LateInteraction(encoder, width=config.hidden_size, n_dims=n_dims)


def save(model: LateInteraction, path: Path, *, base: str, base_sha256: str, card: Mapping[str, Any]) -> None:
    """Write what training changed, layers in bf16; complete or not at all."""
    tensors = {
        name: tensor.detach().cpu().to(torch.bfloat16 if name.startswith("encoder.") else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(_FROZEN)
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "base": base,
        "base_sha256": base_sha256,
        "sha256": _digest(tensors),
        "card": json.dumps(card, sort_keys=True),
    }
    aside = path.with_name(path.name + ".part")
    save_file(tensors, aside, metadata=metadata)
    aside.replace(path)


def load(path: Path, base: Any, *, name: str, base_sha256: str) -> tuple[LateInteraction, dict[str, Any]]:
    """``(model in fp32, card)`` of a weights file, on the embeddings of the base it was trained on.

    Raises:
        WeightsMismatchError: no such file, another format or version, another base, tensors that do not match their
            hash or do not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise WeightsMismatchError(f"{path} is no readable safetensors file ({error}); train it again") from error
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise WeightsMismatchError(
            f"{path} has format {metadata.get('format')!r} version {metadata.get('version')!r}; this release reads "
            f"{FORMAT!r} version {VERSION!r}"
        )
    if metadata.get("base") != name:
        raise WeightsMismatchError(
            f"{path} was trained on {metadata.get('base')!r}, not {name!r}: pass model={metadata.get('base')!r}"
        )
    if metadata.get("base_sha256") != base_sha256:
        raise WeightsMismatchError(
            f"{path} was trained on other weights of {name!r} (sha256 {str(metadata.get('base_sha256'))[:12]}..., here "
            f"{base_sha256[:12]}...): take that revision, or train again"
        )
    if metadata.get("sha256") != _digest(tensors):
        raise WeightsMismatchError(f"{path} is damaged: its tensors do not match their hash; fetch or train it again")
    try:
        n_layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.layers."))
        model = untrained(base, layers=range(n_layers), n_dims=len(tensors["query.weight"]))
        model.load_state_dict({**model.state_dict(), **{key: tensor.float() for key, tensor in tensors.items()}})
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsMismatchError(f"the tensors of {path} do not fit {name!r}: {error}") from error
    return model, json.loads(metadata.get("card", "{}"))


def weights_digest(model: Any) -> str:
    """sha256 over the parameters of a base model, whatever dtype it was loaded in: of its bf16 values."""
    return _digest({name: tensor.to(torch.bfloat16).cpu() for name, tensor in model.state_dict().items()})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def _batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> list[list[Sequence[int]]]:
    batches: list[list[Sequence[int]]] = []
    n_tokens = batch_tokens
    for sequence in sequences:
        if n_tokens + len(sequence) > batch_tokens:
            batches.append([])
            n_tokens = 0
        batches[-1].append(sequence)
        n_tokens += len(sequence)
    return batches
