"""``ctxcompress train soft``: teach summarizers to write vectors that a reader answers from.

Pretraining asks for the passage itself (autoencoding) and for how it goes on (continuation), with a ratio of tokens to
vectors that tightens and short passages first; then come questions, with answers as they are given, or as the reader
gives them when it has the full text (distillation). The reader itself can learn, too: from full text, or together with
the vectors. Every step is decided by the seed and its number alone, so a run that was interrupted goes on exactly where
its last checkpoint stands.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import CtxCompressError
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.pipeline import PROMPT
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training.checkpoint import load_checkpoint, save_checkpoint
from ctxcompress_integrations.training.lessons import Mix, Study, lessons
from ctxcompress_integrations.training.teaching import Teaching


class TrainingError(CtxCompressError):
    """A training that cannot go on."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Some steps of one kind.

    Attributes:
        ratio: tokens per vector; None for the summarizer's own.
        weights: of the losses by name: "autoencode", "continue", "answer", "distil"; what is not named counts 0.
    """

    steps: int
    mix: Mix = field(default_factory=Mix)
    ratio: int | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: {"autoencode": 1.0, "continue": 1.0, "answer": 1.0})


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome beside the data and the start.

    Attributes:
        batch: passages per step and process.
        lr: peak learning rate: linear warm-up, constant, linear decay over the last ``decay`` of the steps.
        reader_lr: of the reader's layers; 0 for a reader that stays frozen.
        precision: "no" or "bf16", of the forwards; what learns is kept in float32.
        recomputes: gradient checkpointing.
        eval_every: steps between two points of the dev curve, and between checkpoints.
    """

    stages: tuple[Stage, ...]
    batch: int = 16
    lr: float = 1e-4
    reader_lr: float = 0.0
    warm_up: int = 100
    decay: float = 0.2
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: Literal["no", "bf16"] = "no"
    prompt: str = PROMPT
    recomputes: bool = False
    eval_every: int = 200

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that the step, from 0, belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise ValueError(f"the recipe has {self.steps} steps")

    def rate_at(self, step: int) -> float:
        """Share of the learning rate at a step."""
        ending = max(1, round(self.steps * self.decay))
        return min(1.0, (step + 1) / max(1, self.warm_up), (self.steps - step) / ending)


@dataclass(slots=True)
class Progress:
    """What a run has seen so far, as its checkpoint keeps it.

    Attributes:
        losses: (step, mean losses since the last point, by name).
        dev: (step, what ``measure`` found).
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    dev: list[tuple[int, dict[str, float]]] = field(default_factory=list)


def train_soft(
    reader: Any,
    tokenizer: Any,
    studies: Sequence[Study],
    out: Path,
    recipe: Recipe,
    *,
    summarizers: Sequence[TokenSummarizer[Any]] = (),
    measure: Callable[[], dict[str, float]] = dict,
    report: Callable[[Progress, Recipe], None] = lambda *_: None,
) -> Progress:
    """Train in place; ``out`` + ".checkpoint" holds the state while training, the curves go beside it.

    Args:
        reader: a decoder LM in float32; its input embeddings never learn.
        tokenizer: its fast tokenizer.
        studies: what is learned on (:func:`~ctxcompress_integrations.training.lessons.studies_of`).
        out: the file that the caller will write when this returns.
        recipe: how.
        summarizers: made for this reader; of several each step trains one, in turn. None for a reader that learns from
            full text.
        measure: a point of the dev curve; called in evaluation mode.
        report: told after every step.

    Raises:
        ValueError: fewer studies than a batch takes, nothing that learns, a checkpoint of another recipe.
        TrainingError: a loss that is not a number; the last checkpoint stays as it was.
    """
    teaching, optimizer = _prepare(reader, tokenizer, recipe, summarizers)
    accelerator = require("accelerate", extra="torch").Accelerator(
        mixed_precision=recipe.precision, cpu=reader.get_input_embeddings().weight.device.type == "cpu"
    )
    wrapped, optimizer = accelerator.prepare(teaching, optimizer)
    learned = nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])
    state, modules = out.with_name(out.name + ".checkpoint"), {"learned": learned}
    plan, progress = _plain(recipe), Progress()
    if state.exists():
        progress = Progress(**load_checkpoint(state, modules, optimizer, plan))
    recent: list[dict[str, float]] = []
    started = time.perf_counter() - progress.seconds
    while progress.step < recipe.steps:
        stage = recipe.stage_at(progress.step)
        draw = random.Random(f"{recipe.seed}/{progress.step}/{accelerator.process_index}")
        torch.manual_seed(recipe.seed * 1_000_003 + progress.step)
        given = lessons(studies, stage.mix, batch=recipe.batch, draw=draw)
        writer = _writer(summarizers, progress.step, stage.ratio)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * recipe.rate_at(progress.step)
        losses = wrapped(given, writer, stage.weights.get("distil", 0.0))
        total = torch.stack([loss * stage.weights.get(name, 0.0) for name, loss in losses.items()]).sum()
        recent.append({name: float(loss.detach()) for name, loss in losses.items()})
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is not a number at step {progress.step + 1} ({recent[-1]}); lower lr={recipe.lr:g}, or take "
                "precision='no', and run again: training goes on from the last checkpoint"
            )
        optimizer.zero_grad()
        accelerator.backward(total)
        accelerator.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], recipe.clip)
        optimizer.step()
        progress.step += 1
        progress.seconds = time.perf_counter() - started
        if progress.step % recipe.eval_every == 0 or progress.step == recipe.steps:
            progress.losses.append((progress.step, _means(recent)))
            progress.dev.append((progress.step, measure()))
            recent = []
            if accelerator.is_main_process:
                save_checkpoint(state, modules, optimizer, plan, asdict(progress))
                _write_curves(out, plan, progress)
        report(progress, recipe)
    for summarizer in summarizers:
        vars(summarizer).pop("bases", None)  # digests of a reader that has learned since
    return progress


def finish(out: Path) -> None:
    """Forget the state of a run whose result is written."""
    out.with_name(out.name + ".checkpoint").unlink(missing_ok=True)


def _prepare(
    reader: Any, tokenizer: Any, recipe: Recipe, summarizers: Sequence[TokenSummarizer[Any]]
) -> tuple[Teaching, torch.optim.AdamW]:
    """What learns, and its optimizer."""
    table = reader.get_input_embeddings().weight
    if table.dtype != torch.float32:
        raise ValueError(f"what learns must be in float32, the reader is in {table.dtype}: load it with dtype='float32'")
    splicer = Splicer(reader.get_input_embeddings(), tokenizer)
    modules = [summarizer.module for summarizer in summarizers]
    reader.requires_grad_(bool(recipe.reader_lr))
    for part in (reader.get_input_embeddings(), reader.get_output_embeddings()):
        part.requires_grad_(False)
    if reader.config.model_type == "bert":  # position and type embeddings, which the shipped reader shares with MiniLM
        reader.bert.embeddings.requires_grad_(False)
        reader.cls.requires_grad_(False)
    own = [p for p in reader.parameters() if p.requires_grad]
    written = [p for module in modules for p in module.requires_grad_(True).parameters()]
    groups = [{"params": ps, "lr": lr, "peak": lr} for ps, lr in ((written, recipe.lr), (own, recipe.reader_lr)) if ps]
    if not groups:
        raise ValueError("nothing learns: give summarizers, or a reader_lr above 0")
    teaching = Teaching(reader, splicer, prompt=recipe.prompt, written=modules, recomputes=recipe.recomputes)
    return teaching.eval(), torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def _writer(
    summarizers: Sequence[TokenSummarizer[Any]], step: int, ratio: int | None
) -> TokenSummarizer[Any] | None:
    if not summarizers:
        return None
    summarizer = summarizers[step % len(summarizers)]
    return summarizer if ratio is None else summarizer.at_ratio(ratio)


def _means(recent: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for losses in recent for name in losses})
    found = {name: [losses[name] for losses in recent if name in losses] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _plain(recipe: Recipe) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return made


def _write_curves(out: Path, plan: Mapping[str, Any], progress: Progress) -> None:
    curves = {"recipe": plan, "seconds": round(progress.seconds, 1), "losses": progress.losses, "dev": progress.dev}
    out.with_suffix(".curves.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")


def n_trained(module: nn.Module) -> int:
    """Numbers in a module that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
