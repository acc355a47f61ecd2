"""A safetensors file in a format of ours: its metadata say which, and which version. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.digest import tensors_digest


@dataclass(frozen=True, slots=True)
class WeightsFormat:
    """One kind of file.

    Attributes:
        name, version: what its metadata say; this release reads no other version.
        cure: what to do about a file that cannot be read.
    """

    name: str
    version: str
    cure: str = "fetch or train it again"

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write contiguous tensors on the CPU; complete or not at all."""
        aside = path.with_name(path.name + ".part")
        try:
            save_file(dict(tensors), aside, {"format": self.name, "version": self.version, **metadata})
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def read(self, path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
        """``(metadata, tensors)``, which are not checked against each other.

        Raises:
            WeightsMismatchError: unreadable, another format or version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise WeightsMismatchError(f"{path} is no readable safetensors file ({error}); {self.cure}") from error
        if (metadata.get("format"), metadata.get("version")) != (self.name, self.version):
            raise WeightsMismatchError(
                f"{path} has format {metadata.get('format')!r} version {metadata.get('version')!r}; this release reads "
                f"{self.name!r} version {self.version!r}"
            )
        return metadata, tensors

    def is_format_of(self, path: Path) -> bool:
        """True for a file in this format, whatever its version; False for anything else, a folder included."""
        try:
            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("format") == self.name
        except (OSError, SafetensorError):
            return False


def check_hash(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """``WeightsMismatchError`` unless the tensors are those whose digest the metadata have as ``sha256``."""
    if metadata.get("sha256") != tensors_digest(tensors):
        raise WeightsMismatchError(f"{path} is damaged: its tensors do not match their hash; fetch or train it again")
