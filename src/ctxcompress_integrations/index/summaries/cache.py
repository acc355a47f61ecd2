"""Least recently used values, bounded in bytes; and vectors on a device. torch is imported for a device only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations._optional import require

V = TypeVar("V")


class ByteLRU(Generic[V]):
    """Values by key; when they come to more than ``limit`` bytes, those that were not asked for longest go.

    Not locked: the owner lets one thread in at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.n_bytes = limit, 0
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """The value, now the most recently used; None when it is not here."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: V, n_bytes: int) -> None:
        """Keep a value; one larger than the limit is not kept."""
        if n_bytes > self.limit:
            return
        self.n_bytes -= self._entries.pop(key, (None, 0))[1]
        self._entries[key] = value, n_bytes
        self.n_bytes += n_bytes
        self.shrink(self.limit)

    def shrink(self, limit: int) -> None:
        """Set the limit and let go of what is beyond it."""
        self.limit = limit
        while self.n_bytes > limit:
            _, (_, n_bytes) = self._entries.popitem(last=False)
            self.n_bytes -= n_bytes

    def clear(self) -> None:
        """Let go of everything."""
        self._entries.clear()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


def check_device(device: Any) -> Any:
    """``device`` as a ``torch.device``, with an index where it is a GPU.

    Raises:
        MissingExtraError: torch is not installed.
        ValueError: there is no such device.
    """
    torch = require("torch", extra="torch")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device={device!r} cannot be used: {str(error).splitlines()[0]}") from error


def to_device(rows: Sequence[NDArray[Any]], device: Any) -> list[Any]:
    """Tensors ``[m, d]`` on a device, each with memory of its own, of arrays of one dtype.

    To a GPU they go through one pinned buffer, so that the copies run without the processor.
    """
    torch = require("torch", extra="torch")
    if not rows:
        return []
    is_cuda = device.type == "cuda"
    dtype = torch.from_numpy(np.empty(0, rows[0].dtype)).dtype
    staging = torch.empty((sum(map(len, rows)), rows[0].shape[1]), dtype=dtype, pin_memory=is_cuda)
    np.concatenate(rows, out=staging.numpy())
    parts = staging.split([len(row) for row in rows])
    tensors = [part.to(device, non_blocking=is_cuda, copy=True) for part in parts]
    if is_cuda:
        torch.cuda.current_stream(device).synchronize()  # whoever gets them from the cache may use another stream
    return tensors
