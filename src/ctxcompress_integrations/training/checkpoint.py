"""The state of a training run in one safetensors file, replaced in one step: what an interrupted run goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    recipe: Mapping[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Replace ``path`` by the present state; ``recipe`` and ``progress`` are plain JSON."""
    kept = {f"{name}.{key}": tensor for name, m in modules.items() for key, tensor in m.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        kept |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}
    aside = path.with_name(path.name + ".part")
    save_file(tensors, aside, metadata={"recipe": json.dumps(recipe), "progress": json.dumps(progress)})
    aside.replace(path)


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Bring modules and optimizer to the state in ``path``; returns its progress.

    Raises:
        ValueError: it belongs to another recipe.
    """
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    if json.loads(metadata["recipe"]) != json.loads(json.dumps(recipe)):
        raise ValueError(f"{path} belongs to another recipe ({metadata['recipe']}); finish that one, or delete it")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    for name, module in modules.items():
        module.load_state_dict(part(f"{name}."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    progress: dict[str, Any] = json.loads(metadata["progress"])
    return progress
