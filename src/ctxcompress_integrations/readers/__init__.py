"""What answers: a Hugging Face causal LM (text and vectors), a vLLM server, any text-only chat model."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctxcompress_integrations.readers.base import Reader

SMALL_WORLD = "small-world"


def load_reader(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    adapters: Mapping[str, str | PathLike[str]] | None = None,
) -> Reader:
    """A reader of text and summary vectors, loaded.

    Args:
        name: hub name or folder of a decoder LM, or "small-world", the small one that ships. A server or a chat model
            is no name: build a ``VLLMReader`` or a ``TextReader``.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bf16 where the device computes in it), "float32", "bfloat16", "float16".
        adapters: name -> folder or hub name of a LoRA adapter.

    Raises:
        ModelLoadError: there is no such model or adapter.
        MissingExtraError: torch is not installed.
    """
    from ctxcompress_integrations._optional import check

    check("torch", extra="torch")
    from ctxcompress_integrations.readers.hf import HFReader

    return HFReader.load(name, device=device, dtype=dtype, adapters=adapters or {})
