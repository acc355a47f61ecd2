"""What the tests of kills, power cuts and full disks share, with the children that they kill."""

import hashlib
import os
import sys

import numpy as np


class HashEmbedder:
    name = "hash"

    def embed_documents(self, texts):
        seeds = (list(hashlib.sha256(text.encode()).digest()) for text in texts)
        return [np.random.default_rng(seed).standard_normal(8) for seed in seeds]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class FullDiskAt:
    """``real``, but its call number ``call``, from 1, finds the disk full; ``left``: how many there are until then."""

    def __init__(self, call, real):
        self.left, self._real = call, real

    def __call__(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")
        return self._real(*arguments)


def around_each_step(monkeypatch, crash):
    """Call ``crash`` before and after every fsync and every rename."""
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real: (crash(), real(*a), crash())[1])


def environment():
    """For a child: it imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
