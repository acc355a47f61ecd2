"""The small rotary LM of ``long_text.py``: what it reads, what it is asked, and how it is taught.

It first learns to look up what belongs to what, in 48 tokens: four pairs of words in any order with other words between
them. Then the same at positions ever farther apart, then with ever more text between, until a row is a window long.
From text alone that does not come within a thousand steps. Then it reads stories, meetings and articles; a quarter of
its rows have pairs strewn in them, a quarter keys and their values.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from ctxcompress_integrations.evaluation.jsonl import find_file, read_rows
from ctxcompress_integrations.training.loop import Group, Learner, Losses, Progress, finish, run

WINDOW, VOCABULARY = 256, 4096
LESSONS = {"pairs": 1200, "apart": 700, "filled": 600}
"""Steps of what is learned before the text."""
N_WORDS, N_PAIRS, N_SAID, N_BETWEEN = 32, 4, 20, 8
APART = WINDOW - 2 * N_SAID - N_BETWEEN
"""The most positions that are left out between pairs."""


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
    """Tokens of texts, and keys hidden in them: a key and its value are a word each.

    Args:
        tokenizer: trained on the training texts.
        texts: what to read.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.tokens = torch.tensor([t for text in texts for t in tokenizer.encode(text + "\n\n").ids])
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        self.words = [token for word, token in vocabulary if word[0] == "Ġ" and word[1:].isalpha() and len(word) > 5]
        self.words = self.words[-N_WORDS:]

    def slice(self, n: int, generator: random.Random) -> Tensor:
        """``[n]`` from anywhere."""
        start = generator.randrange(len(self.tokens) - n)
        return self.tokens[start : start + n]

    def keyed(self, n: int, generator: random.Random, n_keys: int, n_asked: int = 1) -> tuple[Tensor, Tensor]:
        """``[n]`` that hides ``n_keys`` values, asks for some of them and ends in one; which tokens those are."""
        pairs = _in_pairs(generator.sample(self.words, 2 * n_keys))
        lines, asked = ([self._line(pair) for pair in some] for some in (pairs, generator.sample(pairs, n_asked)))
        room = n + 1 - sum(map(len, lines + asked))  # the last line is cut behind its value
        cuts = sorted(generator.randrange(room + 1) for _ in lines)
        filler = self.slice(room, generator).split([b - a for a, b in zip([0, *cuts], [*cuts, room], strict=True)])
        mixed = [part for pair in zip(filler, lines, strict=False) for part in pair]
        is_asked = torch.zeros(n, dtype=torch.bool)
        is_asked[n - 1 - len(lines[0]) * torch.arange(n_asked)] = True
        return torch.cat([*mixed, filler[-1], *asked])[:n], is_asked

    def strewn(self, n: int, generator: random.Random) -> tuple[Tensor, Tensor]:
        """``[n]`` with pairs said anywhere in it; which tokens are values whose key was there before."""
        pairs = _in_pairs(generator.sample(self.words, 2 * generator.choice((2, 4, 6, 8))))
        said = [*pairs, *generator.choices(pairs, k=N_SAID + N_PAIRS - len(pairs))]
        generator.shuffle(said)
        room = n - 2 * len(said)
        cuts = sorted(generator.randrange(room + 1) for _ in said)
        filler = self.slice(room, generator)
        ids, is_known = filler.new_empty(n), torch.zeros(n, dtype=torch.bool)
        is_filler = torch.ones(n, dtype=torch.bool)
        for i, (cut, pair) in enumerate(zip(cuts, said, strict=True)):
            at = cut + 2 * i
            ids[at : at + 2], is_filler[at : at + 2] = torch.tensor(pair), False
            is_known[at + 1] = pair in said[:i]
        ids[is_filler] = filler
        return ids, is_known

    def told(self, generator: random.Random, apart: int) -> tuple[list[int], list[int], list[bool]]:
        """``2 * N_SAID + N_BETWEEN`` tokens: pairs of a key and its value in any order, again and again, and single
        words between them; their positions, of which up to ``apart`` are left out between them; and which tokens are
        values that follow their key not for the first time.
        """
        words = generator.sample(self.words, 3 * N_PAIRS)
        pairs, others = _in_pairs(words[N_PAIRS:]), [[word] for word in words[:N_PAIRS]]
        said = [*pairs, *generator.choices(pairs, k=N_SAID - N_PAIRS), *generator.choices(others, k=N_BETWEEN)]
        generator.shuffle(said)
        left_out = generator.randrange(apart + 1)
        jumps = sorted(generator.randrange(left_out + 1) for _ in said)
        ids: list[int] = []
        positions: list[int] = []
        is_known: list[bool] = []
        for i, (words, jump) in enumerate(zip(said, jumps, strict=True)):
            positions += [jump + len(ids) + j for j in range(len(words))]
            ids += words
            is_known += [False, words in said[:i]][: len(words)]
        return ids, positions, is_known

    def _line(self, pair: Sequence[int]) -> Tensor:
        begin, end = (self.tokenizer.encode(text).ids for text in ("\nKey:", "\n"))
        return torch.tensor([*begin, *pair, *end])


def _in_pairs(words: Sequence[int]) -> list[list[int]]:
    return [list(words[i : i + 2]) for i in range(0, len(words), 2)]


class Reading:
    """The course of a model that looks up pairs, near and far, then in text, and then reads."""

    eval_every, clip, seed, precision = 50, 1.0, 0, "bf16"

    def __init__(self, text: Text, steps: int) -> None:
        self.text, self.text_steps, self.steps = text, steps, sum(LESSONS.values()) + steps
        pairs = {"pairs": N_PAIRS, "said": N_SAID, "between": N_BETWEEN, "apart": APART}
        self.plan = {**pairs, "lessons": LESSONS, "steps": steps, "window": WINDOW, "vocabulary": VOCABULARY}

    def rate_at(self, step: int) -> float:
        """Constant for the lessons, which a rate that falls does not teach; a cosine over the text."""
        done = max(0, step - self.steps + self.text_steps) / self.text_steps
        return min(1, (step + 1) / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, Losses]:
        generator = random.Random(f"{step}/{process}")  # noqa: S311 - data, no secret
        apart, filled, text = accumulate(LESSONS.values())
        told = [
            self.text.told(generator, min(APART, max(0, (step - apart) // 2)))
            for _ in range(64 if step < filled else 24)
        ]
        rows = self._rows(generator, step - filled, is_text=step >= text) if step >= filled else None
        losses: Losses = learner(tuple(map(torch.tensor, zip(*told, strict=True))), rows)
        weights = {"tokens": 1.0 if step >= text else 0.3}
        return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum(), losses

    def _rows(self, generator: random.Random, step: int, *, is_text: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``[b, n]``: text with pairs in it, ``n`` growing with ``step``; once it is a window, some rows have keys
        instead, and at last some have neither. Which tokens are pairs' values, and which are keys'.
        """
        n = min(WINDOW, 56 + step * 4 // 5)
        n_keyed = 0 if n < WINDOW else 8 if is_text else 6
        strewn = [self.text.strewn(n, generator) for _ in range(2048 // n)]
        keyed = []
        for _ in range(n_keyed):
            n_keys = generator.choice((1, 2, 4, 8))
            keyed.append(self.text.keyed(n, generator, n_keys, n_asked=n_keys))
        plain = [self.text.slice(n, generator) for _ in range(16 if is_text else 0)]
        nothing = [torch.zeros(n, dtype=torch.bool)]
        known, asked = [mask for _, mask in strewn], [mask for _, mask in keyed]
        return (
            torch.stack([*(ids for ids, _ in (*strewn, *keyed)), *plain]),
            torch.stack([*known, *nothing * (len(keyed) + len(plain))]),
            torch.stack([*nothing * len(strewn), *asked, *nothing * len(plain)]),
        )


def losses_of(model: Any, told: tuple[Tensor, Tensor, Tensor], rows: tuple[Tensor, Tensor, Tensor] | None) -> Losses:
    """Of values that were there before: in pairs, in pairs strewn in text, and of keys in text; and of all tokens of
    text. Those that there are.

    Args:
        model: reads ``[b, n]``.
        told: token ids ``[b, n]``, their positions, and which of them are such values.
        rows: token ids ``[b, n]``, and which of them are values of pairs, and of keys.
    """
    ids, positions, is_known = told
    found = {"pairs": _losses(model, ids, positions)[is_known[:, 1:]].mean()}
    if rows is not None:
        ids, is_known, is_asked = rows
        losses = _losses(model, ids)
        found |= {"strewn": losses[is_known[:, 1:]].mean(), "tokens": losses.mean()}
        if bool(is_asked.any()):
            found["keys"] = losses[is_asked[:, 1:]].mean()
    return found


def _losses(model: Any, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """``[b, n - 1]`` of ``[b, n]``."""
    logits = model(ids, position_ids=positions).logits[:, :-1]
    return F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")


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
    run(
        learner,
        [Group(list(model.parameters()), 1e-3, 0.1, betas=(0.9, 0.98))],
        Reading(text, steps),
        kept,
        report=report,
    )
    save_file({k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}, kept)
    finish(kept)
    return model.eval()
