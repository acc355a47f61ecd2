"""The arguments of one compression, checked when they are given, before any model runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from ctxcompress_integrations._numbers import as_python, whole
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.text.protect import check_patterns

Passages: TypeAlias = Sequence[Passage | str]
Unit: TypeAlias = Literal["sentence", "phrase", "dynamic"]
LIMITS = ("keep_ratio", "token_budget", "threshold")
MAX_SIGMA = 1000
"""Words: whoever smooths over more wants the mean."""
Threshold: TypeAlias = float | Literal["auto"]


class OptionArguments(TypedDict, total=False):
    """The keyword arguments of a compression; their meaning stands at :meth:`TextCompressor.compress`."""

    keep_ratio: float | None
    token_budget: int | None
    threshold: Threshold | None
    unit: Unit | None
    protect: str | Sequence[str] | None
    joiner: str | None
    sigma: float | None
    count_tokens: Any


@dataclass(frozen=True, slots=True)
class CompressionOptions:
    """What :meth:`TextCompressor.compress` documents, with at most one limit.

    Raises:
        ValueError: naming the argument and the value.
    """

    keep_ratio: float | None = None
    token_budget: int | None = None
    threshold: Threshold | None = None
    unit: Unit = "sentence"
    protect: str | Sequence[str] | None = None
    joiner: str | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        for name in (*LIMITS, "sigma"):
            object.__setattr__(self, name, as_python(getattr(self, name)))
        given = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        if len(given) > 1:
            raise ValueError(f"give exactly one of {', '.join(LIMITS)}, got {given}")
        if self.keep_ratio is not None and not (_is_number(self.keep_ratio) and 0 < self.keep_ratio <= 1):
            raise ValueError(f"keep_ratio must be a number in (0, 1], got {self.keep_ratio!r}")
        if self.token_budget is not None:
            whole("token_budget", self.token_budget)
        if self.threshold not in (None, "auto") and not _is_number(self.threshold):
            raise ValueError(f"threshold must be a number or 'auto', got {self.threshold!r}")
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {self.unit!r}")
        if self.joiner is not None and not isinstance(self.joiner, str):
            raise ValueError(f"joiner must be a str, got {self.joiner!r}")
        if self.sigma is not None and not (_is_number(self.sigma) and 0 <= self.sigma <= MAX_SIGMA):
            raise ValueError(f"sigma must be a number in [0, {MAX_SIGMA}], got {self.sigma!r}")
        check_patterns(self.protect)

    @property
    def patterns(self) -> tuple[str, ...]:
        """``protect`` as a tuple."""
        return check_patterns(self.protect)

    def updated(self, given: OptionArguments) -> CompressionOptions:
        """These options with those given (and not None) in place; a new limit replaces whatever limit stood.

        Raises:
            TypeError: for a name that is no option.
        """
        unknown = set(given) - set(OptionArguments.__annotations__)
        if unknown:
            raise TypeError(
                f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(OptionArguments.__annotations__)}"
            )
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None and k != "count_tokens"}
        if any(limit in changes for limit in LIMITS):
            changes = dict.fromkeys(LIMITS) | changes
        return replace(self, **changes)

    def as_fields(self) -> dict[str, Any]:
        """The options that host components have as fields."""
        names = (*LIMITS, "unit", "joiner")
        return {name: getattr(self, name) for name in names} | {"protect": list(self.patterns) or None}

    @property
    def has_limit(self) -> bool:
        """True when it is said how much to keep."""
        return any(getattr(self, name) is not None for name in LIMITS)

    def require_limit(self) -> None:
        """``ValueError`` when no limit was given at all."""
        if not self.has_limit:
            raise ValueError(f"say how much to keep: give one of {', '.join(LIMITS)}")


def as_passages(passages: Passages) -> tuple[Passage, ...]:
    """Checked passages; strings get their position as id.

    Raises:
        ValueError: a single string instead of a list, text or id that is no ``str``, an id twice.
    """
    if isinstance(passages, str | Passage) or not isinstance(passages, Iterable):
        raise ValueError(f"passages must be a list of Passage or str, got {type(passages).__name__}: wrap it in a list")
    found: list[Passage] = []
    seen: set[str] = set()
    for i, item in enumerate(passages):
        passage = Passage(str(i), item) if isinstance(item, str) else item
        if not isinstance(passage, Passage):
            raise ValueError(f"passage {i} must be a Passage or a str, got {type(item).__name__}: {item!r:.80}")
        if not isinstance(passage.text, str) or not isinstance(passage.id, str):
            raise ValueError(f"id and text of passage {i} must be str, got {passage.id!r:.80} and {passage.text!r:.80}")
        if not isinstance(passage.metadata, Mapping):
            raise ValueError(f"the metadata of passage {i} must be a mapping, got {passage.metadata!r:.80}")
        if passage.id in seen:
            raise ValueError(f"the id {passage.id!r} occurs twice in one request; ids must be unique")
        seen.add(passage.id)
        found.append(passage)
    return tuple(found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
