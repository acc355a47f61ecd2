"""The trained ``mini`` model: a tokenizer, the first layers of its base encoder fine-tuned, and late-interaction heads.

File format: safetensors with the layers that were trained (``encoder.layers.*``), ``query.weight`` and
``passage.weight`` ``[p, d]``, ``importance.weight`` ``[1, d]``, ``shares.weight`` ``[2, d]``, ``shares.bias`` ``[2]``;
metadata ``format``, ``version``, ``base``, ``base_sha256``, ``layers`` (which of the base's were taken, JSON),
``sha256`` (of the tensors) and ``card`` (JSON: recipe, data, thresholds). What stayed frozen, the base's vocabulary,
embeddings and first layers, is not in the file. Nothing is unpickled.
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
from ctxcompress_integrations.nn.late_interaction import LateInteraction, QueryVectors, mean_vector
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder, pack

FORMAT = "ctxcompress-mini"
VERSION = "1"
TITLE_TOKENS = 32
"""Tokens of a title that are read, before those of the text."""
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
        max_tokens: tokens of a text that are read, special tokens included, its title aside.
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

    def query_vectors(self, texts: Sequence[str]) -> list[QueryVectors]:
        """Vectors and weights of each query's tokens, special tokens included, on the CPU."""
        ids = self._tokenize(texts)["input_ids"]
        with torch.no_grad():
            found = [self.model.query_vectors(states) for states in self._states(ids)]
        return [QueryVectors(*(part.cpu() for part in q if part is not None)) for q in found]

    def passage_vectors(self, texts: Sequence[str], titles: Sequence[str]) -> list[TokenVectors]:
        """Unit vectors of each passage's tokens, of its title's, and of the whole.

        Args:
            texts: the caller cuts those longer than ``max_tokens``.
            titles: read before each text, cut at ``TITLE_TOKENS``; "" for none.
        """
        encoded = self._tokenize(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
        is_text = [np.asarray(mask) == 0 for mask in encoded["special_tokens_mask"]]
        headings = title_ids(self.tokenizer, titles)
        firsts = [int(mask.argmax()) for mask in is_text]  # the title stands before the first token of the text
        ids = zip(encoded["input_ids"], headings, firsts, strict=True)
        sequences = [[*text[:first], *heading, *text[first:]] for text, heading, first in ids]
        found = []
        for i, states in enumerate(self._states(sequences)):
            offsets = np.asarray(encoded["offset_mapping"][i], dtype=np.int64).reshape(-1, 2)[is_text[i]]
            with torch.no_grad():
                vectors, pooled = self.model.passage_vectors(states).cpu(), mean_vector(states).cpu()
            before, title, rest = vectors.tensor_split([firsts[i], firsts[i] + len(headings[i])])
            of_text = torch.cat([before, rest])[torch.from_numpy(is_text[i])]
            found.append(TokenVectors(offsets, of_text, title.clone(), pooled))
        return found

    def _tokenize(self, texts: Sequence[str], **wanted: bool) -> Any:
        return self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_attention_mask=False, **wanted
        )

    def _states(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Last hidden states ``[n, d]`` of each sequence."""
        device = self.model.query.weight.device
        states: list[Tensor] = []
        for batch in _batches(sequences, self.batch_tokens):
            lengths = [len(sequence) for sequence in batch]
            ids = torch.tensor([token for sequence in batch for token in sequence], dtype=torch.long, device=device)
            blocks = [block.to(device) for block in pack(lengths, step=1 if device.type == "cpu" else 16)]
            with self._lock, torch.no_grad():
                states += self.model.encoder(ids, blocks).split(lengths)
        return states


def title_ids(tokenizer: Any, titles: Sequence[str]) -> list[list[int]]:
    """Token ids of each title without special tokens, underscores read as spaces, at most ``TITLE_TOKENS``."""
    found: dict[str, list[int]] = {"": []}
    for title in titles:
        if title not in found:
            words = title.replace("_", " ")
            encoded = tokenizer(words, add_special_tokens=False, truncation=True, max_length=TITLE_TOKENS)
            found[title] = list(encoded["input_ids"])
    return [found[title] for title in titles]


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
        "format": FORMAT,
        "version": VERSION,
        "base": base,
        "base_sha256": base_sha256,
        "layers": json.dumps(list(layers)),
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
        model = untrained(base, layers=json.loads(metadata["layers"]), n_dims=len(tensors["query.weight"]))
        model.load_state_dict({**model.state_dict(), **{key: tensor.float() for key, tensor in tensors.items()}})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
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
