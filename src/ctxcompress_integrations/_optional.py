"""Optional dependencies: checked where they are needed, with a message that is the cure."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ctxcompress_integrations.errors import MissingExtraError


def check(module: str, *, extra: str) -> None:
    """Say which extra brings ``module`` when it is not installed; imports nothing.

    Raises:
        MissingExtraError: when the module's top-level package is not installed.
    """
    package = module.partition(".")[0]
    if package not in sys.modules and find_spec(package) is None:
        raise MissingExtraError(
            f"{package!r} is not installed; install it with: pip install 'ctxcompress-integrations[{extra}]'"
        )


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or say which extra brings it.

    Raises:
        MissingExtraError: as :func:`check`. An installed package that fails to import raises its own error: that is
            not a missing extra.
    """
    check(module, extra=extra)
    return import_module(module)
