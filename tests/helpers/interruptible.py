"""The command line, interruptible: what a shell runs in the background inherits a deaf ear for SIGINT."""

import sys

_LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
INTERRUPTIBLE = [sys.executable, "-c", f"{_LISTEN}; from ctxcompress_integrations.cli import main; main()"]
