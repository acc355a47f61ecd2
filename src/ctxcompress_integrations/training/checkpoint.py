"""The state of a training run in one safetensors file, replaced in one step: what an interrupted run goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

ABSENT = "nothing"
"""In place of a field that one of two recipes lacks."""
MOST_NAMED = 6
"""Fields of two recipes that an error names."""


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
        ValueError: it cannot be read, or belongs to another recipe; what differs is named.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no readable checkpoint ({error}); delete it, and train anew") from error
    check_recipe(path, json.loads(metadata["recipe"]), recipe)

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


def data_digest(rows: Iterable[object]) -> str:
    """SHA-256 over what rows are made of: text, numbers and tuples, lists or dataclasses of them."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row!r}\n".encode())
    return digest.hexdigest()


def check_recipe(path: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """``ValueError`` naming each field of plain JSON in which the recipe of the file ``path`` is not the wanted one."""
    found, here = (dict(_fields(json.loads(json.dumps(recipe)))) for recipe in (kept, wanted))
    names = [name for name in {**found, **here} if found.get(name, ABSENT) != here.get(name, ABSENT)]
    if names:
        said = [f"{name}: {found.get(name, ABSENT)!r:.80} there, {here.get(name, ABSENT)!r:.80} here" for name in names]
        more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
        listed = "; ".join(said[:MOST_NAMED] + more)
        raise ValueError(f"{path} belongs to another recipe ({listed}); finish that one, or delete it")


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is nested, by dotted names."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _fields(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
