"""Trainings in several processes, as ``torchrun`` starts them: all of them learn, one writes."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import distributed


def is_main() -> bool:
    """Whether this process is the one that writes; known before the processes have found each other."""
    return int(os.environ.get("RANK", "0")) == 0


def on_main(act: Callable[[], object]) -> None:
    """Let the main process ``act``; the others wait until it has."""
    if is_main():
        act()
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
