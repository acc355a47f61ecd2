"""Numbers as users give them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np


def as_python(value: Any) -> Any:
    """A number of another library, numpy's say, as Python's own; anything else as it is."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """``value`` as Python's int; ``ValueError`` for what is no whole number, numpy's included, or below ``least``."""
    found = as_python(value)
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
    return found
