"""The command line. ``main`` turns every known error into one line with its cure; commands import what they need."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from ctxcompress_integrations import __version__
from ctxcompress_integrations.cli import (
    ask,
    bench,
    compress,
    doctor,
    evaluation,
    index,
    summarize,
    train,
    train_infor_coef,
    train_mini,
    train_small_world,
    train_soft,
)

app = typer.Typer(
    help="Index passages, ask questions, and keep of what is found only what the question needs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("index")(index.index)
app.command("ask")(ask.ask)
app.command("summarize")(summarize.summarize)
app.command("compress")(compress.compress)
app.command("verify")(index.verify)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("eval")(evaluation.evaluate)
train.app.command("mini")(train_mini.mini)
train.app.command("mini-fast")(train_mini.mini_fast)
train.app.command("infor-coef")(train_infor_coef.infor_coef)
train.app.command("small-world")(train_small_world.small_world)
train.app.command("soft")(train_soft.soft)
train.app.command("lloco")(train_soft.lloco)
app.add_typer(train.app, name="train")


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"ctxcompress {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: exit code 0, 1 for a failure, 2 for wrong usage; typer makes it 130 for ctrl-C.

    Wrong usage is what typer refuses, and what the package calls wrong arguments: a plain ``ValueError``.
    """
    from ctxcompress_integrations.cli.screen import say
    from ctxcompress_integrations.errors import CtxCompressError

    try:
        app()
    except Exception as error:
        if os.environ.get("CTXCOMPRESS_DEBUG"):
            raise
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
            sys.exit(1)
        message = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, CtxCompressError | ValueError | OSError):
            message = f"{type(error).__name__}: {message} (CTXCOMPRESS_DEBUG=1 shows where)"
        say("error: " + re.sub(r"CompressedIndex\.create(\(.*\))?", "'ctxcompress index'", message), err=True)
        sys.exit(2 if type(error) is ValueError else 1)
