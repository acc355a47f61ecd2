"""``where`` conditions on metadata, turned into parameterised SQL.

Knows neither vectors nor passages: only that a column named ``metadata`` holds a JSON object. Operands travel as JSON
text and are decoded by SQLite itself, by the same code that decodes the stored values, so that equal numbers are equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctxcompress_integrations._numbers import as_python
from ctxcompress_integrations.index.rows import is_unicode

MAX_CONDITIONS = 400  # SQLite allows expressions 1000 levels deep; one condition takes two
MAX_DEPTH = 32

_COMPARISONS = {"$eq": "=", "$ne": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_TYPES = {"text": "e.type = 'text'", "number": "e.type IN ('integer', 'real')"}


def where_sql(where: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """SQL condition and its parameters for a ``where`` mapping; no mapping, or an empty one, matches everything.

    ``{"lang": "en", "year": {"$gte": 2000, "$lt": 2010}}`` asks for all of it. Operators: ``$eq $ne $gt $gte $lt $lte
    $in $nin`` on a key; ``{"$and": [...]}``, ``{"$or": [...]}``, ``{"$not": {...}}`` around conditions. A key is an
    exact top-level key. A missing key matches nothing but ``$ne`` and ``$nin``. ``True`` is not 1; 1 is 1.0.

    Raises:
        ValueError: unknown operator, or an operand that cannot be compared; the message names it.
    """
    parameters: list[str] = []
    sql = _all_of(where, parameters, 0) if where is not None else "1"
    if len(parameters) > 2 * MAX_CONDITIONS:
        raise ValueError(f"where has more than {MAX_CONDITIONS} conditions: gather values of one key under $in")
    return sql, parameters


def _all_of(where: Any, parameters: list[str], depth: int) -> str:
    if not isinstance(where, Mapping):
        raise ValueError(f"where must be a mapping such as {{'lang': 'en'}}, got {where!r:.80}")
    if depth > MAX_DEPTH:
        raise ValueError(f"where is nested more than {MAX_DEPTH} levels deep")
    parts = [_condition(key, operand, parameters, depth) for key, operand in where.items()]
    return "(" + " AND ".join(parts) + ")" if parts else "1"


def _condition(key: Any, operand: Any, parameters: list[str], depth: int) -> str:
    if not isinstance(key, str) or "\0" in key or not is_unicode(key):
        raise ValueError(f"a where key must be a str of valid Unicode without NUL characters, got {key!r}")
    if key in ("$and", "$or"):
        if not isinstance(operand, list | tuple) or not operand:
            raise ValueError(f"{key} takes a list of at least one condition, got {operand!r:.80}")
        parts = [_all_of(part, parameters, depth + 1) for part in operand]
        return "(" + f" {key[1:].upper()} ".join(parts) + ")"
    if key == "$not":
        return f"NOT {_all_of(operand, parameters, depth + 1)}"
    if key.startswith("$"):
        raise ValueError(f"unknown operator {key!r} in where: use $and, $or, $not or a metadata key")
    if not isinstance(operand, Mapping):
        operand = {"$eq": operand}
    if not operand:
        raise ValueError(f"where has no operator for the key {key!r}: give a value or such as {{'$gte': 1}}")
    return "(" + " AND ".join(_comparison(key, name, value, parameters) for name, value in operand.items()) + ")"


def _comparison(key: str, name: Any, value: Any, parameters: list[str]) -> str:
    if name in ("$in", "$nin"):
        test = _membership(key, name, value, parameters)
    elif name in _COMPARISONS:
        test = _scalar_test(key, name, value, parameters)
    else:
        known = " ".join((*_COMPARISONS, "$in", "$nin"))
        raise ValueError(f"unknown operator {name!r} for the key {key!r} in where: use one of {known}")
    exists = f"EXISTS (SELECT 1 FROM json_each(metadata) AS e WHERE e.key = ? AND {test})"  # noqa: S608 - only literals of this file
    return f"NOT {exists}" if name in ("$ne", "$nin") else exists


def _scalar_test(key: str, name: str, value: Any, parameters: list[str]) -> str:
    kind, value = _kind(key, name, value), as_python(value)
    parameters.append(key)
    if kind in _TYPES:
        parameters.append(json.dumps(value, ensure_ascii=False))
        return f"{_TYPES[kind]} AND e.value {_COMPARISONS[name]} json_extract(?, '$')"
    if name not in ("$eq", "$ne"):
        raise ValueError(f"{name} on the key {key!r} needs a number or a text, got {value!r}")
    return f"e.type = '{kind}'"


def _membership(key: str, name: str, values: Any, parameters: list[str]) -> str:
    if not isinstance(values, list | tuple | set | frozenset | range | np.ndarray):
        raise ValueError(f"{name} on the key {key!r} takes a list of values, got {values!r:.80}")
    by_kind: dict[str, list[Any]] = {}
    for value in map(as_python, values):
        by_kind.setdefault(_kind(key, name, value), []).append(value)
    parameters.append(key)
    tests = [f"e.type = '{kind}'" for kind in by_kind if kind not in _TYPES]
    for kind, test in _TYPES.items():
        if kind in by_kind:
            parameters.append(json.dumps(by_kind[kind], ensure_ascii=False))
            tests.append(f"({test} AND e.value IN (SELECT value FROM json_each(?)))")  # noqa: S608 - only literals of this file
    return "(" + " OR ".join(tests) + ")" if tests else "0"


def _kind(key: str, name: str, value: Any) -> str:
    """The JSON type of an operand: 'text', 'number', or the literal 'true', 'false', 'null'."""
    value = as_python(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str) and "\0" not in value and is_unicode(value):
        return "text"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return "number"
    raise ValueError(
        f"{name} on the key {key!r} in where takes a text of valid Unicode, a finite number, True, False or None, got "
        f"{value!r:.80}"
    )
