"""Ending an answer at a stop text, wherever the borders of its tokens or pieces lie.

The stop that is complete first counts, the longest of those that end there: a rule under which the cut does not depend
on the pieces that the answer came in.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence


def cut_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """``text`` up to the first stop, and whether there was one."""
    ends = [(found + len(s), found) for s in stop if (found := text.find(s)) >= 0]
    return (text[: min(ends)[1]], True) if ends else (text, False)


def cut_stream(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """``cut_at`` of the joined pieces, as they come; what may yet become a stop is held back.

    Args:
        pieces: parts of one text; a generator is closed as soon as no more of it is needed.
        stop: texts of at least one character.
    """
    held = ""
    try:
        for piece in pieces:
            held, is_over = cut_at(held + piece, stop)
            n_open = 0 if is_over else _open_end(held, stop)
            ready, held = held[: len(held) - n_open], held[len(held) - n_open :]
            if ready:
                yield ready
            if is_over:
                return
        if held:
            yield held
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """``stop`` as a tuple; ``ValueError`` for a single string, or for one that is empty or no string."""
    if isinstance(stop, str) or any(not isinstance(s, str) or not s for s in stop):
        raise ValueError(f"stop must be a list of strings that are not empty, got {stop!r}")
    return tuple(stop)


def _open_end(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of ``text`` with which a stop could begin."""
    return max((n for s in stop for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0)
