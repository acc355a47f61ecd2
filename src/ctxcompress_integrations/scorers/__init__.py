"""Query + passages -> one relevance per token, one file per method. ``load_scorer`` is the only registry.

Third parties register a class under the entry-point group ``ctxcompress_integrations.scorers``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctxcompress_integrations.scorers.base import Scorer

ENTRY_POINTS = "ctxcompress_integrations.scorers"
_BUILT_IN = {
    "lexical": "ctxcompress_integrations.scorers.lexical:Lexical",
    "mini": "ctxcompress_integrations.scorers.mini:Mini",
    "probe": "ctxcompress_integrations.scorers.probe:Probe",
    "quito": "ctxcompress_integrations.scorers.quito:Quito",
    "quito_x": "ctxcompress_integrations.scorers.quito_x:QuitoX",
}


def available_scorers() -> list[str]:
    """Names that :func:`scorer_class` knows, other packages' included."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def check_name(name: str) -> None:
    """``ValueError`` with the known names when there is no scorer ``name``; loads nothing."""
    if name not in available_scorers():
        raise ValueError(f"there is no scorer {name!r}; known names: {', '.join(available_scorers())}")


def scorer_class(name: str) -> type[Scorer]:
    """The class registered under ``name``; ``ValueError`` with the known names when there is none."""
    check_name(name)
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: type[Scorer] = getattr(import_module(module), attribute)
        return found
    loaded: type[Scorer] = next(point for point in entry_points(group=ENTRY_POINTS) if point.name == name).load()
    return loaded
