"""JSON lines as the commands read them: strictly, with the numbers by which errors name them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from ctxcompress_integrations.errors import CtxCompressError


class InputError(CtxCompressError):
    """What a command was given to read cannot be used: a failure, while a plain ``ValueError`` is wrong usage."""


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """The lines of ``text`` that are not blank, counted from 1."""
    lines = enumerate(text.split("\n"), start=1)  # splitlines() also splits inside JSON strings
    return ((number, line) for number, line in lines if line.strip())


def parsed(line: str) -> Any:
    """The value that a line of JSON stands for.

    Raises:
        ValueError: for what is no JSON, for numbers that are not finite and for what is nested too deep.
    """
    try:
        return json.loads(line, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _not_finite(number)


def _not_finite(number: str) -> NoReturn:
    raise ValueError(f"{number} is no finite number")
