"""``ctxcompress train soft``: teach summarizers to write vectors that a reader answers from.

Pretraining asks for the passage itself (autoencoding) and for how it goes on (continuation), with a ratio of tokens to
vectors that tightens and short passages first; then come questions, with answers as they are given, or as the reader
gives them when it has the full text (distillation). The reader itself can learn, too: from full text, or together with
the vectors. Every step is decided by the seed and its number alone, so a run that was interrupted goes on exactly where
its last checkpoint stands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.pipeline import PROMPT
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training.checkpoint import data_digest
from ctxcompress_integrations.training.lessons import KINDS, Mix, Study, lessons
from ctxcompress_integrations.training.loop import FromRecipe, Group, Losses, Measure, Progress, plain, run
from ctxcompress_integrations.training.teaching import Teaching


@dataclass(frozen=True, slots=True)
class Stage:
    """Some steps of one kind.

    Attributes:
        mix: what lessons are made of.
        ratio: tokens per vector; of several, one is drawn for each step; None for the summarizer's own.
        weights: of the losses by name, the kinds of tasks, "distil" and "imitate"; what is not named counts 0. With
            "imitate" the example writes what is read, and summarizers learn to write the same.
    """

    steps: int
    mix: Mix = field(default_factory=Mix)
    ratio: int | tuple[int, ...] | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))


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
        raise ValueError(f"the recipe has {self.steps} steps, there is no step {self.steps + step}")

    def rate_at(self, step: int) -> float:
        """Share of the learning rates at a step."""
        ending = max(1, round(self.steps * self.decay))
        return min(1.0, (step + 1) / max(1, self.warm_up), (self.steps - step) / ending)


@dataclass(frozen=True)
class SoftCourse(FromRecipe):
    """The steps of a recipe on some data; one of several summarizers learns at each step, in turn.

    Attributes:
        origin: digests and settings of what the run began with, as plain JSON.
    """

    recipe: Recipe
    studies: Sequence[Study]
    summarizers: Sequence[TokenSummarizer[Any]]
    example: TokenSummarizer[Any] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    steps = property(lambda self: self.recipe.steps)

    @cached_property
    def plan(self) -> dict[str, Any]:
        return {**plain(self.recipe), **self.origin}

    def rate_at(self, step: int) -> float:
        return self.recipe.rate_at(step)

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, Losses]:
        stage = self.recipe.stage_at(step)
        draw = random.Random(f"{self.recipe.seed}/{step}/{process}")
        given = lessons(self.studies, stage.mix, batch=self.recipe.batch, draw=draw)
        ratio = draw.choice(stage.ratio) if isinstance(stage.ratio, tuple) else stage.ratio
        writer = _at(ratio, self.summarizers[step % len(self.summarizers)] if self.summarizers else None)
        distil = stage.weights.get("distil", 0.0)
        if stage.weights.get("imitate"):
            losses: Losses = learner(given, _at(ratio, self.example), distil, writer)
        else:
            losses = learner(given, writer, distil)
        return torch.stack([loss * stage.weights.get(name, 0.0) for name, loss in losses.items()]).sum(), losses


def _at(ratio: int | None, writer: TokenSummarizer[Any] | None) -> TokenSummarizer[Any] | None:
    return writer if writer is None or ratio is None else writer.at_ratio(ratio)


def train_soft(
    reader: Any,
    tokenizer: Any,
    studies: Sequence[Study],
    out: Path,
    recipe: Recipe,
    *,
    summarizers: Sequence[TokenSummarizer[Any]] = (),
    example: TokenSummarizer[Any] | None = None,
    measure: Measure = dict,
    report: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Train in place; ``out`` + ".checkpoint" holds the state while training, the curves go beside it.

    Args:
        reader: a decoder LM, in float32 where it learns; its embeddings never do.
        tokenizer: its fast tokenizer.
        studies: what is learned on (:func:`~ctxcompress_integrations.training.studies.studies_of`).
        out: the file that the caller writes when this returns.
        recipe: how.
        summarizers: made for this reader; none for a reader that learns from full text.
        example: what they imitate where a stage weighs that; it learns nothing.
        measure: a point of the dev curve; models are in evaluation mode all the time.
        report: told after every step.

    Raises:
        ValueError: fewer studies than a batch takes, nothing that learns, nothing to imitate where a stage asks for
            it, a checkpoint of another recipe, of other studies, another reader or other summarizers.
        TrainingError: a loss that is not a number; the last checkpoint stays as it was.
    """
    if any(stage.weights.get("imitate") for stage in recipe.stages) and (example is None or not summarizers):
        raise ValueError("a stage of the recipe imitates, which takes an example and summarizers that follow it")
    modules = [summarizer.module for summarizer in summarizers]
    for module in modules:
        module.requires_grad_(True)
    own = _unfreeze(reader, is_frozen=not recipe.reader_lr)
    splicer = Splicer(reader.get_input_embeddings(), tokenizer)
    learner = Teaching(reader, splicer, prompt=recipe.prompt, written=modules, recomputes=recipe.recomputes).eval()
    written = [parameter for module in modules for parameter in module.parameters()]
    groups = [Group(p, lr, recipe.weight_decay) for p, lr in ((written, recipe.lr), (own, recipe.reader_lr)) if p]
    origin = {
        "data": data_digest(studies),
        "reader": weights_digest(reader),
        "summarizers": [_settings(summarizer) for summarizer in summarizers],
        "example": _settings(example) if example is not None else None,
    }
    course = SoftCourse(recipe, studies, summarizers, example, origin)
    progress = run(learner, groups, course, out, measure=measure, report=report)
    if own:
        for summarizer in summarizers:
            vars(summarizer).pop("bases", None)  # digests of a reader that has learned since
    return progress


def _settings(summarizer: TokenSummarizer[Any]) -> dict[str, Any]:
    return {"name": summarizer.name, **summarizer.config, "module": summarizer.sizes}


def _unfreeze(reader: Any, *, is_frozen: bool) -> list[torch.nn.Parameter]:
    """The parameters that learn: of the layers, all that no embedding and no head holds."""
    reader.requires_grad_(not is_frozen)
    tables = [
        reader.get_input_embeddings(),
        reader.get_output_embeddings(),
        getattr(reader.base_model, "embeddings", None),
    ]
    for part in tables:
        if part is not None:
            part.requires_grad_(False)
    return [parameter for parameter in reader.parameters() if parameter.requires_grad]
