"""A small rotary LM trained on 256 positions, read far past them four ways: what stays readable, what is remembered.

    python benchmarks/long_text.py --data DIR --steps 1200 --json benchmarks/results/long-text-cpu.json

Trained from scratch on stories, meetings and articles; a quarter of every batch has keys and their values hidden in the
text and asks for them again, another says a few keys and their values again and again, in any order: there most tokens
can only be known by looking them up. Measured on stories that it never saw: perplexity by position, and how often a
value comes back from a past of many windows. Which ways there are:

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from ctxcompress_integrations.evaluation.jsonl import find_file, read_rows
from ctxcompress_integrations.evaluation.rows import Row, as_report, write_report
from ctxcompress_integrations.hf.lambda_models import Decoder
from ctxcompress_integrations.hf.lambda_pass import Phases
from ctxcompress_integrations.hf.streaming import read, token_losses
from ctxcompress_integrations.nn.lambda_mask import LambdaShape
from ctxcompress_integrations.patches.lm_infinite import LMInfinite, MiddleTopK
from ctxcompress_integrations.training.loop import Group, Learner, Losses, Progress, finish, run

WINDOW, N_GLOBAL, VOCABULARY = 256, 10, 4096
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
N_STREAMS, BATCH, N_ASKED = 8, 32, 50
RECALL_LENGTHS = (192, 1024, 4096, 16384)
NAMES = tuple(a + b for a in ["bar", "dol", "fen", "gri", "hal", "jor", "kel", "mun"] for b in ["ba", "do", "li", "ra"])
MIDDLE = MiddleTopK(k=5, from_layer=1)
Way = Callable[[Any], AbstractContextManager[Any]]


def stories(folder: Path, *, held_out: bool) -> list[str]:
    """Long texts to train on, or those kept for measuring."""
    part = "dev" if held_out else "train"
    texts = [row["text"] for _, row in read_rows(find_file(folder, f"squality_{part}"))]
    if held_out:
        return texts
    tales, meetings = (read_rows(find_file(folder, name)) for name in ("fairytaleqa_train", "qmsum_train"))
    texts += ["\n".join(section["text"] for section in row["sections"]) for _, row in tales]
    texts += ["\n".join(f"{speaker}: {text}" for speaker, text in row["turns"]) for _, row in meetings]
    articles: dict[str, dict[str, None]] = {}
    for _, row in read_rows(find_file(folder, "squad_train_subset")):
        articles.setdefault(row["title"], {})[row["context"]] = None
    return [*texts, *("\n".join(contexts) for contexts in articles.values())]


class Text:
    """Tokens of texts, and keys hidden in them.

    Args:
        tokenizer: trained on the training texts.
        texts: what to read.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.tokens = torch.tensor([t for text in texts for t in tokenizer.encode(text + "\n\n").ids])

    def slice(self, n: int, generator: random.Random) -> Tensor:
        """``[n]`` from anywhere."""
        start = generator.randrange(len(self.tokens) - n)
        return self.tokens[start : start + n]

    def keyed(self, n: int, generator: random.Random, n_keys: int) -> tuple[Tensor, Tensor]:
        """``[n]`` ending in a question for one of ``n_keys`` hidden values, and the value's tokens."""
        keys = drawn_keys(generator, n_keys)
        lines = [self._line(name, value) for name, value in keys]
        name, asked = generator.choice(keys)
        question, value = self._ids(f"\nThe key of {name} is"), self._ids(f" {asked}.")
        room = n - len(question) - sum(map(len, lines))
        cuts = sorted(generator.randrange(room + 1) for _ in lines)
        filler = self.slice(room, generator).split([b - a for a, b in zip([0, *cuts], [*cuts, room], strict=True)])
        mixed = [part for pair in zip(filler, lines, strict=False) for part in pair]
        return torch.cat([*mixed, filler[-1], question]), value

    def repeated(self, n: int, generator: random.Random, n_keys: int) -> Tensor:
        """``[n]`` of nothing but ``n_keys`` keys and their values, again and again."""
        lines = [self._line(name, value) for name, value in drawn_keys(generator, n_keys)]
        said: list[Tensor] = []
        while sum(map(len, said)) < n:
            said += generator.sample(lines, len(lines))
        return torch.cat(said)[:n]

    def _line(self, name: str, value: str) -> Tensor:
        return self._ids(f"\nThe key of {name} is {value}.\n")

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(text).ids)


def drawn_keys(generator: random.Random, n: int) -> list[tuple[str, str]]:
    """Names and values of three digits."""
    return [(name, " ".join(str(generator.randrange(10)) for _ in range(3))) for name in generator.sample(NAMES, n)]


class Reading:
    """The course of a model that reads text and finds keys in it."""

    eval_every, clip, seed, precision = 50, 1.0, 0, "bf16"

    def __init__(self, text: Text, steps: int) -> None:
        self.text, self.steps = text, steps
        self.plan = {"steps": steps, "window": WINDOW, "batch": BATCH, "vocabulary": VOCABULARY}

    def rate_at(self, step: int) -> float:
        return min(1, (step + 1) / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / self.steps)) / 2)

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, Losses]:
        generator = random.Random(f"{step}/{process}")  # noqa: S311 - data, no secret
        rows = []
        for i in range(BATCH):
            if i % 4 == 0:
                asked, value = self.text.keyed(WINDOW - 8, generator, generator.choice((1, 2, 4, 8)))
                rows.append(F.pad(torch.cat([asked, value]), (0, 8))[:WINDOW])
            elif i % 4 == 1:
                rows.append(self.text.repeated(WINDOW, generator, generator.choice((2, 3, 4, 8))))
            else:
                rows.append(self.text.slice(WINDOW, generator))
        losses: Losses = learner(torch.stack(rows))
        return losses["tokens"] + losses["values"], losses


def losses_of(model: Any, batch: Tensor) -> Losses:
    """Of all tokens of ``[b, n]``, and of the hidden values in every fourth row."""
    logits = model(batch).logits
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), batch[:, 1:], reduction="none")
    return {"tokens": losses.mean(), "values": losses[::4, WINDOW - 9 : WINDOW - 5].mean()}


def trained(text: Text, steps: int, kept: Path) -> LlamaForCausalLM:
    """The model after so many steps; ``kept`` spares a second run the work, and an interrupted one goes on."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    if kept.exists():
        model.load_state_dict(load_file(kept), strict=False)
        return model.eval()

    def report(seen: Progress) -> None:
        if seen.losses and seen.losses[-1][0] == seen.step:
            said = ", ".join(f"{name} {value:.3f}" for name, value in seen.losses[-1][1].items())
            print(f"step {seen.step}: {said}, {seen.seconds:.0f} s", flush=True)

    learner = Learner({"model": model}, partial(losses_of, model))
    run(learner, [Group(list(model.parameters()), 1.5e-3, 0.1)], Reading(text, steps), kept, report=report)
    save_file({k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}, kept)
    finish(kept)
    return model.eval()


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
    """Share of values that come back, all three digits."""
    ways = {**WAYS, "LM-Infinite with middle top-5": LMInfinite(N_GLOBAL, WINDOW, middle=MIDDLE)}
    del ways["sinks at cache positions"]
    for n_keys, what in ((1, "passkey"), (8, "one of 8 keys")):
        for n in RECALL_LENGTHS:
            for name, way in ways.items():
                hits = 0
                for number in range(N_ASKED):
                    generator = random.Random(number)  # noqa: S311 - data, no secret
                    prompt, value = held_out.keyed(n, generator, n_keys)
                    with way(model):
                        hits += _says(model, prompt, value[:-1])
                yield Row(f"{what} in {n} tokens, {name}", hits / N_ASKED, "share of questions", n=N_ASKED)


@torch.no_grad()
def _says(model: Any, prompt: Tensor, value: Tensor) -> bool:
    cache, logits = read(model, prompt[None], chunk=256)
    for token in value:
        if int(logits.argmax()) != int(token):
            return False
        logits = model(input_ids=token[None, None], past_key_values=cache).logits[:, -1]
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the standard sets")
    parser.add_argument("--steps", type=int, default=1200)
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
