"""For tests of your own: conformance suites to inherit, and tiny models that need no network.

A suite is a pytest class; override its one fixture::

    class TestMine(TextCompressorConformance):
        @pytest.fixture
        def compressor(self):
            return TextCompressor(MyScorer())
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "DocumentCompressorConformance": "documents",
    "NodePostprocessorConformance": "nodes",
    "PassageStoreConformance": "stores",
    "TextCompressorConformance": "compressors",
    "tiny_decoder": "tiny",
    "tiny_encoder": "tiny",
    "tiny_t5": "tiny",
    "tiny_tokenizer": "tiny",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 - sorted keys of the table above


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
