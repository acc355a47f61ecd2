"""A classifier that Infor-Coef made, as one file: a smaller encoder, its samplers if it has any, and its head.

File format: safetensors with the state of a :class:`~ctxcompress_integrations.nn.classifier.TextClassifier` (
``encoder.*`` and ``head.*``), self-contained, embeddings included; sizes are read from the tensors. Metadata:
``format``, ``version``, ``base`` (whose tokenizer it reads), ``head_width``, ``eps``, ``sha256`` (of the tensors) and
``card`` (JSON: task, recipe, figures). Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.digest import tensors_digest
from ctxcompress_integrations.hf.weights_file import WeightsFormat, check_hash
from ctxcompress_integrations.nn.classifier import TextClassifier
from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder

FORMAT = WeightsFormat("ctxcompress-infor-coef", "1", cure="train it again")


def save(model: TextClassifier, path: Path, *, base: str, card: Mapping[str, Any]) -> None:
    """Write a classifier; complete or not at all.

    Args:
        model, path: what goes where.
        base: name of the encoder that it came from.
        card: what is known of it.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    first: Any = model.packed.layers[0]
    metadata = {
        "base": base,
        "n_layers": str(len(model.packed.layers)),
        "head_width": str(first.head_width),
        "eps": repr(model.packed.norm.eps),
        "sha256": tensors_digest(tensors),
        "card": json.dumps(card, sort_keys=True),
    }
    FORMAT.write(path, tensors, metadata)


def load(path: Path) -> tuple[TextClassifier, str, dict[str, Any]]:
    """``(classifier in evaluation mode, name of its base, card)``.

    Raises:
        WeightsMismatchError: no such file, another format or version, tensors that do not match their hash or do not
            fit each other.
    """
    metadata, tensors = FORMAT.read(path)
    check_hash(path, metadata, tensors)
    try:
        model = _untrained(metadata, tensors)
        model.load_state_dict(tensors)
        return model.eval(), metadata["base"], json.loads(metadata["card"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsMismatchError(f"the tensors of {path} do not fit each other: {error}") from error


def _untrained(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> TextClassifier:
    """A classifier of the sizes of ``tensors``."""
    outer = "encoder." if "encoder.words.weight" in tensors else "encoder.encoder."
    n_layers, head_width = int(metadata["n_layers"]), int(metadata["head_width"])

    def rows(name: str) -> int:
        return len(tensors[name]) if name in tensors else 0

    encoder = PackedEncoder(
        n_vocabulary=rows(f"{outer}words.weight"),
        n_positions=rows(f"{outer}positions.weight"),
        width=tensors[f"{outer}words.weight"].shape[1],
        n_heads=[rows(f"{outer}layers.{i}.qkv.weight") // (3 * head_width) for i in range(n_layers)],
        n_inner=[rows(f"{outer}layers.{i}.up.weight") for i in range(n_layers)],
        n_layers=n_layers,
        eps=float(metadata["eps"]),
        head_width=head_width,
    )
    n_labels = rows("head.weight")
    if outer == "encoder.":
        return TextClassifier(encoder, n_labels=n_labels)
    widths = {i: rows(f"encoder.samplers.{i}.down.weight") for i in range(n_layers)}
    sampled = [i for i, width in widths.items() if width]
    dropping = DroppingEncoder(encoder, sampled=sampled, n_inner=max(widths.values()))
    return TextClassifier(dropping, n_labels=n_labels)
