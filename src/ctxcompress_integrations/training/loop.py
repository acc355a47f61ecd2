"""The loop that trainings share: steps decided by their number, a checkpoint to go on from, curves, no silent NaN."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import CtxCompressError
from ctxcompress_integrations.training.checkpoint import load_checkpoint, save_checkpoint
from ctxcompress_integrations.training.processes import on_main

Losses = dict[str, Tensor]


class TrainingError(CtxCompressError):
    """A training that cannot go on."""


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


Measure = Callable[[], dict[str, float]]
Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that learn alike.

    Attributes:
        lr: peak learning rate; constant where ``is_scheduled`` is False, and then gradients are not clipped either.
        maximize: the loss is climbed (Lagrange multipliers).
        betas: how long AdamW remembers gradients and their squares.
    """

    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    is_scheduled: bool = True
    maximize: bool = False
    betas: tuple[float, float] = (0.9, 0.999)

    def as_argument(self) -> dict[str, Any]:
        """As optimizers take it."""
        rest = {"weight_decay": self.weight_decay, "maximize": self.maximize, "betas": self.betas}
        return {"params": list(self.parameters), "lr": self.lr, **rest}


class Learner(nn.Module):
    """Modules that learn and the losses that they learn from, as one module, so that whatever wraps modules wraps both.

    Args:
        modules: by name.
        losses: called with whatever a course hands over.
    """

    def __init__(self, modules: Mapping[str, nn.Module], losses: Callable[..., Losses]) -> None:
        super().__init__()
        self.learning, self.losses = nn.ModuleDict(modules), losses

    def forward(self, *given: Any) -> Losses:
        """Losses by name."""
        return self.losses(*given)


class Course(Protocol):
    """What a run consists of. A step is decided by its number, from 0, and the process's."""

    @property
    def steps(self) -> int:
        """Of the whole run."""

    @property
    def eval_every(self) -> int:
        """Steps between two points of the curves, and between checkpoints."""

    @property
    def clip(self) -> float:
        """Norm of the gradients."""

    @property
    def seed(self) -> int:
        """Of what is drawn on the way (dropout, gates)."""

    @property
    def precision(self) -> Literal["no", "bf16"]:
        """Of the forwards; what learns is in float32."""

    @property
    def plan(self) -> Mapping[str, Any]:
        """Plain JSON, with digests of what is learned on and from; a checkpoint of another plan is refused."""

    def rate_at(self, step: int) -> float:
        """Share of the peak learning rates."""

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, Losses]:
        """What is minimised, and the losses that it is made of."""


class FromRecipe:
    """The part of a :class:`Course` that its recipe says."""

    recipe: Any

    eval_every = property(lambda self: self.recipe.eval_every)
    clip = property(lambda self: self.recipe.clip)
    seed = property(lambda self: self.recipe.seed)
    precision = property(lambda self: self.recipe.precision)


def run(
    learner: nn.Module,
    groups: Sequence[Group],
    course: Course,
    out: Path,
    *,
    measure: Measure = dict,
    report: Report = lambda _: None,
    after: Callable[[], None] = lambda: None,
) -> Progress:
    """Train in place; ``out`` + ".checkpoint" holds the state while training, the curves go beside ``out``.

    Args:
        learner: what is called by ``course``, wrapped for the devices at hand.
        groups: parameters that learn, and how.
        course: the steps.
        out: the file that the caller writes in the end, on the main process
            (:func:`~ctxcompress_integrations.training.processes.on_main`); then it calls :func:`finish`.
        measure: a point of the dev curve.
        report: told after every step.
        after: called after each step of the optimizer.

    Raises:
        ValueError: nothing that learns, parameters that are not in float32, a checkpoint of another plan.
        TrainingError: a loss or a gradient that is not a number; the last checkpoint stays as it was.
    """
    parameters = [parameter for group in groups for parameter in group.parameters]
    clipped, unclipped = (
        [p for g in groups if g.is_scheduled is known for p in g.parameters] for known in (True, False)
    )
    if not parameters:
        raise ValueError("nothing learns: give summarizers, or a reader_lr above 0")
    if other := {p.dtype for p in parameters} - {torch.float32}:
        raise ValueError(f"what learns must be in float32, got {other.pop()}: load the model with dtype='float32'")
    optimizer = torch.optim.AdamW([group.as_argument() for group in groups])
    kind = parameters[0].device.type
    accelerator = require("accelerate", extra="torch").Accelerator(cpu=kind == "cpu")
    wrapped, optimizer = accelerator.prepare(learner, optimizer)
    state, modules, progress = checkpoint_of(out), {"learned": nn.ParameterList(parameters)}, Progress()
    if state.exists():
        progress = Progress(**load_checkpoint(state, modules, optimizer, course.plan))
    recent: list[dict[str, float]] = []
    started = time.perf_counter() - progress.seconds
    while progress.step < course.steps:
        torch.manual_seed(_drawn(course.seed, progress.step))
        for known, group in zip(optimizer.param_groups, groups, strict=True):
            known["lr"] = group.lr * (course.rate_at(progress.step) if group.is_scheduled else 1.0)
        # not Accelerate's own: a process could then train in one precision only
        with torch.autocast(kind, torch.bfloat16, enabled=course.precision == "bf16"):
            total, losses = course.losses_at(wrapped, progress.step, accelerator.process_index)
        recent.append({name: float(loss.detach()) for name, loss in losses.items()})
        _check_finite(total, "loss", progress.step, recent[-1], state)
        optimizer.zero_grad()
        accelerator.backward(total)
        for given, most in ((clipped, course.clip), (unclipped, math.inf)):
            norm = accelerator.clip_grad_norm_(given, most)
            _check_finite(norm, "gradient", progress.step, recent[-1], state)
        optimizer.step()
        after()
        progress.step += 1
        progress.seconds = time.perf_counter() - started
        if progress.step % course.eval_every == 0 or progress.step == course.steps:
            progress.losses.append((progress.step, _means(recent)))
            progress.dev.append((progress.step, measure()))
            recent = []
            if accelerator.is_main_process:
                save_checkpoint(state, modules, optimizer, course.plan, asdict(progress))
                _write_curves(out, course.plan, progress)
        report(progress)
    return progress


def _check_finite(value: Tensor, name: str, step: int, losses: Mapping[str, float], state: Path) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {name} is not a number at step {step + 1} ({losses}); lower the learning rate, or take "
            f"precision='no', and train anew: {state}, where it exists, belongs to this recipe, delete it first"
        )


def checkpoint_of(out: Path) -> Path:
    """Where the state of a run that will write ``out`` is kept."""
    return out.with_name(out.name + ".checkpoint")


def finish(out: Path) -> None:
    """Forget the state of a run whose result is written."""
    on_main(lambda: checkpoint_of(out).unlink(missing_ok=True))


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe, a dataclass, as plain JSON."""
    made: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return made


def _drawn(seed: int, step: int) -> int:
    """A seed of its own for every step of every run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:7], "big")


def _means(recent: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for losses in recent for name in losses})
    found = {name: [losses[name] for losses in recent if name in losses] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _write_curves(out: Path, plan: Mapping[str, Any], progress: Progress) -> None:
    curves = {"recipe": plan, "seconds": round(progress.seconds, 1), "losses": progress.losses, "dev": progress.dev}
    out.with_suffix(".curves.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
