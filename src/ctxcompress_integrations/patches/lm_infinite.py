"""LM-Infinite: a decoder LM reads far past its training length, in linear time and constant cache (arXiv:2308.16137).

Each token sees the first ``n_global`` tokens and the last ``n_local``, at distances that the model was trained on. What
lies between is out of sight unless ``middle`` looks for it: a text of any length is read without falling apart, and is
not remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctxcompress_integrations.hf.lambda_attention import lambda_window
from ctxcompress_integrations.nn.lambda_mask import LambdaShape, MiddleTopK

__all__ = ["LMInfinite", "MiddleTopK"]


class LMInfinite:
    """A patch: ``with LMInfinite(n_global=32, n_local=4096)(model): model.generate(...)``.

    Inside, forwards, ``generate`` (a plain ``DynamicCache``, prefill in chunks, beams), batches with a padding mask,
    PEFT adapters and :func:`~ctxcompress_integrations.hf.attention.trigger_rows` work as before. Outside, the model is
    what it was, bit for bit. One object may patch several models.

    Args:
        n_global: sinks: first real tokens of each row that stay in sight; 10 to 100 are alike.
        n_local: window, the token itself included: the length that the model was trained on.
        middle: look for the best keys between sinks and window too; None as in the paper's perplexity figures.

    Raises:
        ValueError: zero sinks or window, or ``n_global >= n_local``.
        UnsupportedModelError: on entry, before anything is changed: the model is of no family that can be patched, is
            compiled, or is inside a patch already.
    """

    def __init__(self, n_global: int = 32, n_local: int = 4096, *, middle: MiddleTopK | None = None) -> None:
        self.shape = LambdaShape(n_global, n_local, middle)

    @contextmanager
    def __call__(self, model: Any) -> Iterator[Any]:
        """Patch a Llama, Mistral, Qwen2, Qwen3, BLOOM or MPT that the caller owns; gives the model itself."""
        with lambda_window(model, self.shape):
            yield model

    def __repr__(self) -> str:
        return f"LMInfinite(n_global={self.shape.n_global}, n_local={self.shape.n_local}, middle={self.shape.middle})"
