"""Fields of a row, taken for what they are: one of another type is an error that names it, never guessed at."""

from __future__ import annotations

from typing import Any


def text(name: str, value: Any) -> str:
    """``value``; ``TypeError`` for what is no text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {value!r:.80}")
    return value


def several(name: str, value: Any) -> list[Any]:
    """``value``; ``TypeError`` for what is no list."""
    if not isinstance(value, list):
        raise TypeError(f"{name} must be a list, got {value!r:.80}")
    return value


def texts(name: str, value: Any) -> list[str]:
    """``value``; ``TypeError`` for what is no list of texts."""
    return [text(f"each of {name}", one) for one in several(name, value)]


def number(name: str, value: Any) -> int:
    """``value``; ``TypeError`` for what is no whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r:.80}")
    return value


def place(name: str, value: Any, n: int) -> int:
    """``value``; ``TypeError`` for what is no whole number, ``ValueError`` for one that is not in ``[0, n)``."""
    if not 0 <= number(name, value) < n:
        raise ValueError(f"{name} must be in [0, {n}), got {value!r}")
    return int(value)


def truth(name: str, value: Any, *, absent: bool) -> bool:
    """``value``, 0 and 1 included, and ``absent`` for None; ``TypeError`` for what is no truth value."""
    if value is None:
        return absent
    if not isinstance(value, int) or value not in (0, 1):
        raise TypeError(f"{name} must be true or false, got {value!r:.80}")
    return bool(value)
