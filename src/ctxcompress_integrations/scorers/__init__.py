"""Query + passages -> one relevance per token, one file per method. ``scorer_class`` goes from a name to a class.

Third parties register a class under the entry-point group ``ctxcompress_integrations.scorers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxcompress_integrations._registry import Registry

if TYPE_CHECKING:
    from ctxcompress_integrations.scorers.base import Scorer

ENTRY_POINTS = "ctxcompress_integrations.scorers"
_SCORERS: Registry[Scorer] = Registry(
    "scorer",
    ENTRY_POINTS,
    {
        "lexical": "ctxcompress_integrations.scorers.lexical:Lexical",
        "mini": "ctxcompress_integrations.scorers.mini:Mini",
        "probe": "ctxcompress_integrations.scorers.probe:Probe",
        "quito": "ctxcompress_integrations.scorers.quito:Quito",
        "quito_x": "ctxcompress_integrations.scorers.quito_x:QuitoX",
    },
)


def available_scorers() -> list[str]:
    """Names that :func:`scorer_class` knows, other packages' included."""
    return _SCORERS.names()


def check_name(name: str) -> None:
    """``ValueError`` with the known names when there is no scorer ``name``; loads nothing."""
    _SCORERS.check(name)


def scorer_class(name: str) -> type[Scorer]:
    """The class registered under ``name``; ``ValueError`` with the known names when there is none."""
    return _SCORERS.load(name)
