"""Classes by name: those of the package, imported when they are asked for, and those that other packages register."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

Base = TypeVar("Base")


class Registry(Generic[Base]):
    """Names of one kind of class.

    Args:
        kind: what messages call it.
        group: the entry-point group in which other packages register theirs; a name of ours cannot be taken.
        built_in: "module:Class" by name.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self._kind, self._group = kind, group
        self._built_in = {name: EntryPoint(name, value, group) for name, value in built_in.items()}

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._built_in, *(point.name for point in entry_points(group=self._group))})

    def check(self, name: str) -> None:
        """``ValueError`` with the known names when ``name`` is none of them; loads nothing."""
        if name not in self.names():
            raise ValueError(f"there is no {self._kind} {name!r}; known names: {', '.join(self.names())}")

    def load(self, name: str) -> type[Base]:
        """The class of that name; ``ValueError`` with the known names when there is none."""
        self.check(name)
        point = self._built_in.get(name) or next(p for p in entry_points(group=self._group) if p.name == name)
        found: type[Base] = point.load()
        return found
