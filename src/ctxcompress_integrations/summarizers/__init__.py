"""Passage -> summary vectors, one file per method. ``load_summarizer`` goes from a name to a summarizer.

Third parties register a class under the entry-point group ``ctxcompress_integrations.summarizers``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctxcompress_integrations._registry import Registry

if TYPE_CHECKING:
    from ctxcompress_integrations.summarizers.base import Summarizer

ENTRY_POINTS = "ctxcompress_integrations.summarizers"
_SUMMARIZERS: Registry[Summarizer] = Registry(
    "summarizer",
    ENTRY_POINTS,
    {
        "autocompressor": "ctxcompress_integrations.summarizers.autocompressor:AutoCompressor",
        "icae": "ctxcompress_integrations.summarizers.icae:Icae",
        "icformer": "ctxcompress_integrations.summarizers.icformer:IcFormer",
        "pooled": "ctxcompress_integrations.summarizers.pooled:Pooled",
    },
)


def available_summarizers() -> list[str]:
    """Names that :func:`summarizer_class` knows, other packages' included."""
    return _SUMMARIZERS.names()


def summarizer_class(name: str) -> type[Summarizer]:
    """The class registered under ``name``; ``ValueError`` with the known names when there is none."""
    return _SUMMARIZERS.load(name)


def load_summarizer(
    name: str,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    prefix: str | None = None,
    ending: str | None = None,
    reader: str | None = None,
) -> Summarizer:
    """A registered summarizer, loaded.

    Args:
        name: "autocompressor", "icae", "icformer", "pooled" or a name that another package registered.
        model: name or folder of the LM that runs: the reader itself, or the encoder of "pooled". None for the model of
            the published weights, where there are some; "small-world" for the small one that ships. For built objects
            construct the summarizer.
        weights: what was trained: a file that ``save`` wrote, or a published checkpoint; a path, "owner/repository" or
            "owner/repository/file" of the hub. "autocompressor" finds it beside its model.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bf16 where the device computes in it), "float32", "bfloat16", "float16".
        prefix: of "autocompressor": "document" accumulates over the segments of a passage, "empty" does not.
        ending: of "icae" and "icformer": the trained token that closes each passage's vectors: "ae", "lm" or "ft".
        reader: of "pooled": the reader's name, where its tokenizer is not the encoder's; only the tokenizer is loaded.

    Raises:
        ValueError: unknown name, an argument that this summarizer does not take, or lacks.
        ModelLoadError, WeightsMismatchError: with what cures it.
    """
    from ctxcompress_integrations.hf.load import SMALL_WORLD, shipped
    from ctxcompress_integrations.summarizers.base import Source

    if weights is None and model == SMALL_WORLD:
        weights = shipped(name)
    return summarizer_class(name).load(Source(model, weights, device, dtype, prefix, ending, reader))
