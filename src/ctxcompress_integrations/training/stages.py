"""One stage of a training run: a loop over batches that an interrupted run takes up again, step for step."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctxcompress_integrations.training.checkpoint import load_checkpoint, save_checkpoint


@dataclass(slots=True)
class Progress:
    """What a stage has seen so far, as its checkpoint keeps it.

    Attributes:
        losses: (step, mean of each part since the last point).
        dev: (step, {measure: value}).
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, list[float]]] = field(default_factory=list)
    dev: list[tuple[int, dict[str, float]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained and how.

    Attributes:
        name: of the stage; part of what decides its random numbers.
        n_steps, batch_size, seed, eval_every: its length.
        modules: everything that changes; put into training mode, and into evaluation mode for ``measure``.
        optimizer: with a "factor" per group: learning rates are ``lr * factor`` after the schedule, or constant for
            groups whose factor is 0.
        lr, warm_up: peak of the schedule, and the share of steps that lead up to it; then linearly to zero.
        loss: numbers of rows, step -> the parts of the loss; their sum is minimized.
        after: called after each step of the optimizer.
        measure: what the dev curve shows.
    """

    name: str
    n_steps: int
    batch_size: int
    seed: int
    eval_every: int
    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    lr: float
    loss: Callable[[Sequence[int], int], Sequence[Tensor]]
    measure: Callable[[], dict[str, float]]
    after: Callable[[], None] = lambda: None
    warm_up: float = 0.1
    clip: float = 1.0


def run_stage(
    stage: Stage,
    n_rows: int,
    state: Path,
    recipe: Mapping[str, Any],
    report: Callable[[str, Progress, int], None] = lambda *_: None,
) -> Progress:
    """Train, or go on from the checkpoint in ``state``, which is gone in the end.

    Args:
        stage: what and how.
        n_rows: of the training data.
        state: the checkpoint's path.
        recipe: plain JSON that the checkpoint must agree with.
        report: told the stage's name, its progress and its steps after every step.

    Raises:
        ValueError: the checkpoint belongs to another recipe.
    """
    progress, made = Progress(), {**recipe, "stage": stage.name}
    if state.exists():
        progress = Progress(**load_checkpoint(state, stage.modules, stage.optimizer, made))
    started = time.perf_counter() - progress.seconds
    recent: list[list[float]] = []
    batches = _batches(stage, n_rows)
    for _ in range(progress.step):
        next(batches)
    while progress.step < stage.n_steps:
        for module in stage.modules.values():
            module.train()
        recent.append(_step(stage, next(batches), progress.step))
        progress.step += 1
        progress.seconds = time.perf_counter() - started
        if progress.step % stage.eval_every == 0 or progress.step == stage.n_steps:
            for module in stage.modules.values():
                module.eval()
            progress.losses.append((progress.step, torch.tensor(recent).mean(dim=0).tolist()))
            progress.dev.append((progress.step, stage.measure()))
            recent = []
            save_checkpoint(state, stage.modules, stage.optimizer, made, asdict(progress))
        report(stage.name, progress, stage.n_steps)
    for module in stage.modules.values():
        module.eval()
    state.unlink(missing_ok=True)
    return progress


def _step(stage: Stage, batch: Sequence[int], step: int) -> list[float]:
    """One step of the optimizer; returns the parts of the loss."""
    digest = hashlib.sha256(f"{stage.seed}/{stage.name}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    warm = max(1, round(stage.warm_up * stage.n_steps))
    share = min(1.0, (step + 1) / warm) * (1 - step / stage.n_steps)
    for group in stage.optimizer.param_groups:
        if group["factor"]:
            group["lr"] = stage.lr * group["factor"] * share
    parts = stage.loss(batch, step)
    stage.optimizer.zero_grad()
    torch.stack(list(parts)).sum().backward()  # type: ignore[no-untyped-call]
    scheduled = [p for g in stage.optimizer.param_groups if g["factor"] for p in g["params"]]
    torch.nn.utils.clip_grad_norm_(scheduled, stage.clip)
    stage.optimizer.step()
    stage.after()
    return [float(part.detach()) for part in parts]


def _batches(stage: Stage, n_rows: int) -> Iterator[list[int]]:
    """Numbers of rows, every epoch in an order of its own that seed and stage decide."""
    waiting: list[int] = []
    for epoch in count():
        order = list(range(n_rows))
        random.Random(f"{stage.seed}/{stage.name}/{epoch}").shuffle(order)
        waiting += order
        while len(waiting) >= stage.batch_size:
            yield waiting[: stage.batch_size]
            del waiting[: stage.batch_size]
