"""Changes passages, builds their summaries and compacts, for ever, until it is killed. Run by test_summaries_kill.py.

Durably logs each text that it computes, and each that it was told is committed. No text is ever used again by a later
step, so there is never a good reason to compute again what was once committed.
"""

import hashlib
import os
import random
import sys
from pathlib import Path

import numpy as np

from crashes import HashEmbedder
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.summaries import codecs, keeper
from ctxcompress_integrations.records import Passage, SummaryVectors


class HashSummarizer:
    """float32 ``[1 to 5, 8]`` from the hash of the text; counts what it computes."""

    fingerprint = "hash summarizer"

    def __init__(self, log=None):
        self.identity = {"method": "hash", "reader": "reader"}
        self.log, self.computed = log, []

    def vectors(self, text):
        dice = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
        return dice.standard_normal((1 + dice.integers(5), 8)).astype(np.float32)

    def summarize(self, passages):
        texts = [passage.text for passage in passages]
        self.computed += texts
        if self.log is not None:
            write_durably(self.log, texts)
        return [SummaryVectors(p.id, self.vectors(p.text), self.fingerprint, "reader", len(p.text)) for p in passages]


def write_durably(path, lines):
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def small_shards():
    """Merge, and train codebooks, all the time."""
    keeper.TARGET_BYTES, keeper.MAX_SMALL = 6000, 4
    codecs.TRAIN_FROM = 150


def run(index, step, summarizer, codec, acknowledged):
    dice = random.Random(step)
    if dice.random() < 0.3:
        index.compact()
        return
    if dice.random() < 0.3:
        index.delete([str(dice.randrange(200)) for _ in range(30)])
    ids = dice.sample(range(200), 30)  # texts under two ids, too
    index.add([Passage(str(id_), f"step {step} text {n // 2}", metadata={}) for n, id_ in enumerate(ids)])
    seen = len(summarizer.computed)

    def progress(done, total):
        nonlocal seen
        write_durably(acknowledged, summarizer.computed[seen:])
        seen = len(summarizer.computed)

    index.build_summaries(summarizer, codec=codec, batch_size=6, progress=progress)


def main(path, step, codec):
    small_shards()
    print("opening", flush=True)
    with CompressedIndex.open(path, embedder=HashEmbedder()) as index:
        summarizer = HashSummarizer(f"{path}.computed")
        while True:
            print(step, flush=True)
            run(index, step, summarizer, codec, f"{path}.acknowledged")
            step += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
