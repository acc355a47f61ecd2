"""One way to call the command line in this process, as its entry point does."""

import io
import sys

import pytest

from ctxcompress_integrations.cli import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Exit code, standard output and standard error of ``ctxcompress ARGUMENTS``."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["ctxcompress", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run
