"""What the commands print: text as it is, without emoji for codes, line ends of their own or control sequences."""

from __future__ import annotations

import json
import re
import sys

import typer
from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: str) -> str:
    """``text`` for a terminal, which no document may steer: control characters are spelled out, but for line ends and
    tabs, and so are halves of surrogate pairs, which a file's name may hold.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text.replace("\r\n", "\n"))


def say(text: str, *, err: bool = False) -> None:
    """One message for people."""
    typer.echo(plain(text), err=err)


def console(*, stderr: bool = False) -> Console:
    """For tables, colours and bars: strings are shown as they are, and not cut into lines. Whoever prints what a
    document or a file's name says makes it ``plain`` first.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def echo_text(text: str) -> None:
    """A text on standard output: byte by byte for a program, ``plain`` on a terminal."""
    typer.echo(plain(text) if sys.stdout.isatty() else text.encode())


def echo_json(value: object) -> None:
    """One line of JSON on standard output; half of a surrogate pair, which no UTF-8 can say, is spelled out."""
    typer.echo(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace"))
