"""What a summarizer learned, as a file: safetensors, and what they were learned on.

Metadata: ``format``, ``version``, ``method``, ``config`` (JSON: the sizes and choices that build the module), ``bases``
(JSON: digests of the models that the tensors belong to, by their part: "reader", "model", "tokenizer"), ``sha256`` (of
the tensors) and ``card`` (JSON: recipe, data). The models themselves are not in the file. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.digest import tensors_digest
from ctxcompress_integrations.hf.weights_file import WeightsFormat, check_hash

FORMAT = WeightsFormat("ctxcompress-summarizer", "1")


@dataclass(frozen=True, slots=True, eq=False)
class SummaryWeights:
    """The contents of one file, whole: read and checked against their own hash.

    Attributes:
        path: where they came from, for messages.
        config, card: plain JSON values.
        bases: digest of each model by its part.
        tensors: by name.
    """

    path: Path
    config: Mapping[str, Any]
    bases: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    card: Mapping[str, Any]

    def check_bases(self, bases: Mapping[str, str]) -> None:
        """``WeightsMismatchError`` naming the part of which this is another than the tensors were learned on."""
        for part, digest in bases.items():
            if self.bases.get(part) != digest:
                raise WeightsMismatchError(
                    f"{self.path} was trained for another {part} (sha256 {str(self.bases.get(part))[:12]}..., here "
                    f"{digest[:12]}...): load that {part}, or train again"
                )


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module of the same names and shapes; every one is used, none is missing.

    Raises:
        WeightsMismatchError: naming ``source`` and the first name that does not fit.
    """
    check_names(tensors, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}, source=source)
    module.load_state_dict(dict(tensors))


def check_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], *, source: str) -> None:
    """``WeightsMismatchError`` naming ``source`` and what is missing, left over or of another shape than ``wanted``."""
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsMismatchError(f"{source} lacks the tensor {name!r}")
        if name not in wanted:
            raise WeightsMismatchError(f"{source} has a tensor that does not belong there: {name!r}")
        if tuple(tensors[name].shape) != wanted[name]:
            raise WeightsMismatchError(
                f"the tensor {name!r} of {source} has shape {tuple(tensors[name].shape)}, {wanted[name]} is needed: is "
                "the model the one that it was trained on?"
            )


def save(
    path: Path,
    module: nn.Module,
    *,
    method: str,
    config: Mapping[str, Any],
    bases: Mapping[str, str],
    card: Mapping[str, Any],
) -> None:
    """Write a module's tensors as they are; complete or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    metadata = {
        "method": method,
        "config": json.dumps(config, sort_keys=True),
        "bases": json.dumps(bases, sort_keys=True),
        "sha256": tensors_digest(tensors),
        "card": json.dumps(card, sort_keys=True),
    }
    FORMAT.write(path, tensors, metadata)


def is_ours(path: Path) -> bool:
    """True for a file in this format, whatever its version; False for anything else, a folder included."""
    return FORMAT.is_format_of(path)


def read(path: Path, *, method: str) -> SummaryWeights:
    """The contents of a file.

    Raises:
        WeightsMismatchError: unreadable, damaged, another format, version or method.
    """
    metadata, tensors = FORMAT.read(path)
    if metadata.get("method") != method:
        raise WeightsMismatchError(
            f"{path} holds weights of the summarizer {metadata.get('method')!r}, not {method!r}: "
            f"load_summarizer({metadata.get('method')!r}, weights=...)"
        )
    check_hash(path, metadata, tensors)
    try:
        config, bases, card = (json.loads(metadata[name]) for name in ("config", "bases", "card"))
    except (KeyError, ValueError) as error:
        raise WeightsMismatchError(f"{path} is damaged: its metadata does not say what it holds ({error})") from error
    return SummaryWeights(path, config, bases, tensors, card)
