"""``ctxcompress train infor-coef``: a small encoder is fine-tuned for a task, pruned, and taught to drop tokens.

Four stages (Infor-Coef, arXiv:2305.12458; its static pruning is CoFi, arXiv:2204.00408), each with a file of its own:
*dense* fine-tunes the base; *static* learns gates on heads, neurons, layers and columns under a budget, guided by the
dense model; *folded* trains on what they leave, now a smaller encoder; *dynamic* adds samplers that drop tokens. Every
step is decided by the seed, the stage and its number alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ctxcompress_integrations.evaluation.classification import Labelled, measure
from ctxcompress_integrations.hf import coef_weights, mini_weights
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import MINI, load_encoder
from ctxcompress_integrations.nn.classifier import TextClassifier
from ctxcompress_integrations.training import coef_stages
from ctxcompress_integrations.training.checkpoint import check_recipe, data_digest
from ctxcompress_integrations.training.loop import Progress, finish, plain, run
from ctxcompress_integrations.training.processes import on_main
from ctxcompress_integrations.training.stages import Stage

STAGES = ("dense", "static", "folded", "dynamic")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome beside the data.

    Attributes:
        base: the encoder that is fine-tuned, a BERT; its embeddings stay frozen.
        size: weights of the layers that static pruning leaves, as a share; 1 skips it.
        tokens: what samplers leave of the norm term, which is nearly the share of tokens that are kept after them; 1
            skips them.
        sampled: layers with a sampler before them.
        n_sampler: width of their bottleneck.
        start: their log-odds at the start; the paper's 10 needs many epochs to come down.
        dense_steps, static_steps, folded_steps, dynamic_steps: of each stage.
        lr: peak of the encoder's learning rate in the dense stage, ``late_lr`` in the others; heads learn
            ``head_factor`` times faster, samplers ``sampler_factor`` times.
        gate_lr, price_lr: of the gates, and of the multipliers that hold size and norm term at their targets.
        ramp: share of a stage in which a target moves from 1 to its value.
        distill, layers: weight of the dense model's logits beside the labels, in [0, 1], and of its states while gates
            are learned.
        entropy: weight of the entropy term.
        bf16: forwards of a step in bf16 where that is safe (autocast).
    """

    base: str = MINI
    size: float = 0.6
    tokens: float = 0.6
    sampled: tuple[int, ...] = (1, 2, 3, 4, 5)
    n_sampler: int = 16
    start: float = 4.0
    dense_steps: int = 600
    static_steps: int = 600
    folded_steps: int = 400
    dynamic_steps: int = 400
    batch_size: int = 32
    lr: float = 1e-4
    late_lr: float = 1e-4
    head_factor: float = 10.0
    sampler_factor: float = 50.0
    gate_lr: float = 0.1
    price_lr: float = 0.1
    ramp: float = 0.4
    distill: float = 0.7
    layers: float = 1.0
    entropy: float = 4e-4
    dropout: float = 0.1
    weight_decay: float = 0.01
    bf16: bool = False
    seed: int = 0
    eval_every: int = 100

    def __post_init__(self) -> None:
        for name in ("size", "tokens"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")


class Run:
    """One run: its data and files, and the stages that are done. Files of another recipe or of other rows are refused.

    Args:
        rows, dev: to learn from, and for the curve.
        out: weights file to write; those of single stages and the curves lie beside it.
        recipe: how.
        device: "auto" takes a GPU when there is one.
        report: told the stage, its progress and its steps after every step.
    """

    def __init__(
        self,
        rows: Sequence[Labelled],
        dev: Sequence[Labelled],
        out: Path,
        recipe: Recipe,
        *,
        device: str = "auto",
        report: Callable[[str, Progress, int], None] = lambda *_: None,
    ) -> None:
        if not rows or not dev:
            raise ValueError(f"training needs rows and dev rows, got {len(rows)} and {len(dev)}")
        self.rows, self.dev, self.out, self.recipe, self.report = rows, dev, out, recipe, report
        self.device = resolve_device(device)
        data = {"rows": data_digest(rows), "dev_rows": data_digest(dev)}
        self.plan: dict[str, Any] = {**plain(recipe), **data}
        self.n_labels = 1 + max(row.label for row in (*rows, *dev))
        self.curves: dict[str, Any] = {}

    def file(self, stage: str) -> Path:
        """Where the outcome of a stage lies."""
        return self.out.with_suffix(f".{stage}.safetensors")

    def finished(self, stage: str) -> TextClassifier | None:
        """The outcome of a stage that this recipe has already made; None if it has not."""
        if not self.file(stage).exists():
            return None
        model, _, card = coef_weights.load(self.file(stage))
        check_recipe(self.file(stage), card["recipe"], self.plan)
        self.curves[stage] = card["curve"]
        return model.to(self.device)

    def train(self, stage: Stage, made: Callable[[], TextClassifier]) -> TextClassifier:
        """Run a stage, write what ``made`` gives at its end, and return that."""
        file = self.file(stage.name)
        progress = run(
            stage.learner,
            stage.groups,
            stage,
            file,
            measure=stage.measure,
            report=lambda progress: self.report(stage.name, progress, stage.steps),
            after=stage.after,
        )
        self.curves[stage.name] = asdict(progress)
        model = made().eval()
        on_main(lambda: self.write(model, file, stage.name))
        finish(file)
        # they are among those of the whole run now
        on_main(lambda: file.with_suffix(".curves.json").unlink(missing_ok=True))
        return model

    def write(self, model: TextClassifier, path: Path, stage: str) -> None:
        """A weights file with its card, and the curves so far."""
        figures = measure(model, self.dev)
        card = {
            "stage": stage,
            "recipe": self.plan,
            "n_rows": len(self.rows),
            "n_dev": len(self.dev),
            "dev": {**figures._asdict(), "times_fewer": figures.times_fewer},
            "curve": self.curves.get(stage, {}),
        }
        coef_weights.save(model, path, base=self.recipe.base, card=card)
        self.out.with_suffix(".curves.json").write_text(
            json.dumps({"recipe": self.plan, "stages": self.curves}, indent=1) + "\n", encoding="utf-8"
        )


def train_infor_coef(run: Run, *, dense: TextClassifier | None = None) -> TextClassifier:
    """Train, write ``run.out`` and return the classifier; an interrupted run goes on where it stopped.

    Args:
        run: data, files and recipe.
        dense: fine-tuned already, by another run; None to begin with the base.

    Raises:
        ValueError: files of another recipe, other rows or another dense model lie in the way.
    """
    if dense is not None:
        run.plan["dense"] = weights_digest(dense)
    dense = dense or run.finished("dense") or _dense(run)
    teacher = copy.deepcopy(dense).to(run.device).eval().requires_grad_(False)
    last, name = teacher, "dense"
    if run.recipe.size < 1:
        last, name = run.finished("folded") or _folded(run, teacher), "folded"
    if run.recipe.tokens < 1:
        last, name = run.finished("dynamic") or _dynamic(run, teacher, last), "dynamic"
    on_main(lambda: run.write(last, run.out, name))
    return last


def _dense(run: Run) -> TextClassifier:
    base, _ = load_encoder(run.recipe.base, device="cpu", dtype="float32")
    layers = range(base.config.num_hidden_layers)
    torch.manual_seed(run.recipe.seed)
    encoder = mini_weights.untrained(base, layers=layers, n_dims=1).encoder
    model = TextClassifier(encoder, n_labels=run.n_labels).to(run.device)
    return run.train(coef_stages.dense(run, model), lambda: model)


def _folded(run: Run, teacher: TextClassifier) -> TextClassifier:
    small = run.finished("static")
    if small is None:
        stage, made = coef_stages.static(run, teacher)
        small = run.train(stage, made)
    model = small
    return run.train(coef_stages.folded(run, teacher, model), lambda: model)


def _dynamic(run: Run, teacher: TextClassifier, small: TextClassifier) -> TextClassifier:
    model = coef_stages.with_samplers(run, small)
    return run.train(coef_stages.dynamic(run, teacher, model), lambda: model)
