"""Tensors by name out of a checkpoint's files, without ever running what is in them.

``.pt`` and ``.bin`` files are read with ``weights_only=True``: nothing but tensors and plain numbers comes out of them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ``WeightsMismatchError`` when it cannot be read."""
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsMismatchError(f"{path} cannot be read ({error}); fetch the checkpoint again") from error
    return read


def folder_tensors(folder: Path, wanted: set[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a transformers checkpoint by name, from one file or from shards; all, or those of ``wanted``."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            files = {name}
        elif (folder / f"{name}.index.json").exists():
            places = read_json(folder / f"{name}.index.json").get("weight_map", {})
            files = {file for key, file in places.items() if wanted is None or key in wanted}
        else:
            continue
        keep: Callable[[str], bool] = (lambda _: True) if wanted is None else wanted.__contains__
        return {key: value for file in sorted(files) for key, value in file_tensors(folder / file, keep).items()}
    raise WeightsMismatchError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def file_tensors(path: Path, keep: Callable[[str], bool] = lambda _: True) -> Mapping[str, Any]:
    """What one file holds by name, in a ``.pt`` also plain numbers; ``WeightsMismatchError`` when it is unreadable."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys() if keep(key)}  # noqa: SIM118 - no mapping
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsMismatchError(f"{path} holds no readable tensors ({error}); fetch it again") from error
    if not isinstance(held, Mapping):
        raise WeightsMismatchError(f"{path} holds a {type(held).__name__}, tensors by name are needed")
    return {key: value for key, value in held.items() if keep(key)}
