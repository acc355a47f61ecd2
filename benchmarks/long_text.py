"""A small rotary LM trained on 256 positions, read far past them four ways: what stays readable, what is remembered.

    python benchmarks/long_text.py --data DIR --steps 700 --json benchmarks/results/long-text-cpu.json

``long_text_model.py`` says how it is taught. Measured on stories that it never saw: perplexity by position, and how
often a value comes back from a past of many windows. Which ways there are:

- vanilla: full attention at positions that training never saw;
- LM-Infinite: the Λ-mask with the distance ceiling;
- windows: overlapping windows of 256 tokens, each read from nothing, scored in its second half;
- sinks at cache positions: the same mask, sinks at the distance at which they stand in the cache (StreamingLLM,
  arXiv:2309.17453).
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from long_text_model import VOCABULARY, WINDOW, Text, stories, trained
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from ctxcompress_integrations.evaluation.rows import Row, as_report, write_report
from ctxcompress_integrations.hf.lambda_models import Decoder
from ctxcompress_integrations.hf.lambda_pass import Phases
from ctxcompress_integrations.hf.streaming import read, token_losses
from ctxcompress_integrations.nn.lambda_mask import LambdaShape
from ctxcompress_integrations.patches.lm_infinite import LMInfinite, MiddleTopK

N_GLOBAL = 10
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
N_STREAMS = 8
RECALLED = {192: 50, 1024: 50, 4096: 50, 16384: 20}
"""Questions by the length of the text that they are asked about."""
MIDDLE = MiddleTopK(k=5, from_layer=1)
Way = Callable[[Any], AbstractContextManager[Any]]


@contextmanager
def sinks_at_cache_positions(model: Any) -> Iterator[Any]:
    """The Λ-mask, each sink as far as it stands in the cache; no distance beyond the window."""
    shape = LambdaShape(N_GLOBAL, WINDOW - N_GLOBAL)

    def phases(decoder: Decoder, shape: LambdaShape) -> Phases:
        far = torch.arange(shape.n_local + shape.n_global - 1, shape.n_local - 1, -1)[None]
        cos, sin = decoder.rotary(torch.zeros(1), far)
        return Phases((cos, sin), (cos[:, :1], sin[:, :1]))

    with patch.object(Phases, "of", phases), LMInfinite(shape.n_global, shape.n_local)(model):
        yield model


WAYS: dict[str, Way] = {
    "vanilla": nullcontext,
    "LM-Infinite": LMInfinite(N_GLOBAL, WINDOW),
    "sinks at cache positions": sinks_at_cache_positions,
}


def windows(model: Any, streams: Tensor) -> Tensor:
    """Negative log-likelihood ``[b, n - 1]``, each token read behind half a window or more."""
    half = WINDOW // 2
    starts = range(0, streams.shape[1] - half, half)
    of_windows = [token_losses(model, streams[:, at : at + WINDOW]) for at in starts]
    found = torch.cat([of_windows[0], *(losses[:, half - 1 :] for losses in of_windows[1:])], dim=1)
    return found[:, : streams.shape[1] - 1]


def perplexities(model: Any, held_out: Text) -> Iterator[Row]:
    """By position, over the second half of each length: 129 to 256, 257 to 512, ..."""
    streams = held_out.tokens[: N_STREAMS * max(LENGTHS)].view(N_STREAMS, -1)
    best = math.inf
    for name, way in {**WAYS, "windows": None}.items():
        if way is None:
            losses = windows(model, streams)
        else:
            with way(model):
                losses = torch.cat([token_losses(model, stream[None], chunk=512) for stream in streams])
        for n in LENGTHS:
            value = math.exp(float(losses[:, n // 2 : n - 1].mean()))
            yield Row(f"perplexity at positions {n // 2 + 1} to {n}, {name}", value, "per token", n=N_STREAMS * n // 2)
            if name == "vanilla" and n == WINDOW:
                best = value
        last = math.exp(float(losses[:, max(LENGTHS) // 2 : -1].mean()))
        target = "<= 1.10" if name == "LM-Infinite" else None
        ratio = f"perplexity at {max(LENGTHS) // WINDOW} times the window over the best within it, {name}"
        yield Row(ratio, last / best, "x", target)


def recalled(model: Any, held_out: Text) -> Iterator[Row]:
    """Share of values that come back."""
    ways: dict[str, Way] = {**WAYS, "LM-Infinite with middle top-5": LMInfinite(N_GLOBAL, WINDOW, middle=MIDDLE)}
    del ways["sinks at cache positions"]
    for n_keys, what in ((1, "passkey"), (8, "one of 8 keys")):
        for n, n_asked in RECALLED.items():
            for name, way in ways.items():
                hits = 0
                for number in range(n_asked):
                    generator = random.Random(number)  # noqa: S311 - data, no secret
                    asked, _ = held_out.keyed(n, generator, n_keys)
                    with way(model):
                        _, logits = read(model, asked[None, :-1], chunk=256)
                    hits += int(logits.argmax()) == int(asked[-1])
                yield Row(f"{what} in {n} tokens, {name}", hits / n_asked, "share of questions", n=n_asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the standard sets")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--weights", type=Path, default=Path("long-text.safetensors"), help="kept from run to run")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/long-text-cpu.json"))
    arguments = parser.parse_args()
    texts = stories(arguments.data, held_out=False)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    model = trained(Text(tokenizer, texts), arguments.steps, arguments.weights)
    held_out = Text(tokenizer, stories(arguments.data, held_out=True))
    rows: list[Row] = []
    for found in (perplexities, recalled):
        for row in found(model, held_out):
            rows.append(row)
            print(f"{row.measure}: {row.value:.3f}", flush=True)
            write_report(arguments.json, as_report(" ".join(["python", *sys.argv]), rows))


if __name__ == "__main__":
    main()
