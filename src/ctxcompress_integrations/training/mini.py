"""``ctxcompress train mini``: fine-tune some layers of the base encoder and the late-interaction heads.

Every step is decided by the seed and its number alone, so a run that was interrupted goes on exactly where its last
checkpoint stands. The same command uses a GPU when there is one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.evaluation.metrics import weighted_mean
from ctxcompress_integrations.evaluation.runs import Budget, run_method
from ctxcompress_integrations.hf import mini_weights, trained
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import MINI, load_encoder
from ctxcompress_integrations.nn.late_interaction import LateInteraction, TrainingHead
from ctxcompress_integrations.nn.packed_encoder import pack
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.training.calibration import calibrate
from ctxcompress_integrations.training.loop import Group, Learner, Progress, finish, plain, run
from ctxcompress_integrations.training.mini_data import Batch, TrainingSet, batches, build
from ctxcompress_integrations.training.mini_loss import Losses, batch_losses
from ctxcompress_integrations.training.neighbours import neighbours_of
from ctxcompress_integrations.training.processes import on_main


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome beside the data.

    Attributes:
        base: the encoder that is fine-tuned, a BERT.
        layers: which of its layers are kept; its embeddings stay frozen.
        n_frozen: how many of them, from the first, stay frozen too; they must be the base's first.
        n_dims: width of the vectors that are compared.
        lr: peak learning rate of the layers; the heads learn ``head_factor`` times faster. Linear warm-up and decay.
        eval_every: steps between two points of the dev curve, and between checkpoints.
    """

    base: str = MINI
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    n_frozen: int = 2
    n_dims: int = 128
    steps: int = 2000
    lr: float = 1.5e-4
    head_factor: float = 5.0
    warm_up: int = 40
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 200


class MiniCourse:
    """Batches of neighbouring passages, in the order that the seed decides.

    Args:
        recipe: how; a :class:`Recipe`, or what has its steps, warm-up, clip, seed and distance of points.
        stream: the batches, from the first step on.
        total: what is minimised, of a step's losses.
        origin: digests of what the run began with.
    """

    precision: Literal["no", "bf16"] = "no"  # the losses say themselves what is computed in bf16

    def __init__(
        self,
        recipe: Any,
        stream: Iterator[Batch],
        total: Callable[[dict[str, Tensor]], Tensor],
        origin: Mapping[str, str],
    ) -> None:
        self.steps, self.eval_every, self.clip, self.seed = recipe.steps, recipe.eval_every, recipe.clip, recipe.seed
        self.plan = {**plain(recipe), **origin}
        self._recipe, self._stream, self._total = recipe, enumerate(stream), total

    def rate_at(self, step: int) -> float:
        rate: float = min(1.0, (step + 1) / self._recipe.warm_up) * (1 - step / self.steps)
        return rate

    def losses_at(self, learner: Any, step: int, process: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = next(batch for number, batch in self._stream if number == step)
        losses: dict[str, Tensor] = learner(batch, random.Random(f"{self.seed}/{step}"))
        return self._total(losses), losses


def train_mini(
    examples: Sequence[Example],
    out: Path,
    recipe: Recipe,
    *,
    dev: Sequence[Dataset] = (),
    calibration: Sequence[Dataset] = (),
    sources: Sequence[str] = (),
    device: str = "auto",
    report: Callable[[Progress], None] = lambda _: None,
) -> Mini:
    """Train, write ``out`` and return the scorer.

    Args:
        examples: annotated questions; those of other data sets than ``dev`` and ``calibration``.
        out: weights file; ``out`` + ".checkpoint" holds the state while training, the curves lie beside in JSON.
        recipe: how.
        dev: for the curve.
        calibration: with which the thresholds are set.
        sources: what the model card says the data are.
        device: "auto" takes a GPU when there is one.
        report: told after every step.

    Raises:
        ValueError: no usable example; a checkpoint of another recipe, other data or another base; frozen layers that
            are not the base's first.
    """
    if recipe.layers[: recipe.n_frozen] != tuple(range(recipe.n_frozen)):
        raise ValueError(f"the {recipe.n_frozen} frozen layers must be the base's first, got layers {recipe.layers}")
    target = resolve_device(device)
    torch.manual_seed(recipe.seed)
    base, tokenizer = load_encoder(recipe.base, device="cpu", dtype="float32")
    data = build(examples, tokenizer)
    if not data.of_passage:
        raise ValueError(f"none of the {len(examples)} examples has a marked answer or supporting sentence")
    model, base_layers = _start(base, recipe, data, target)
    head = TrainingHead().to(target)
    groups = _groups(model, head, recipe)
    neighbours = neighbours_of(data, base.to(target), tokenizer, out.with_name(out.name + ".neighbours"))
    scorer = Mini(trained.TrainedEncoder(model.eval(), tokenizer), cache_bytes=0)

    def losses(batch: Batch, generator: random.Random) -> dict[str, Tensor]:
        return batch_losses(model, head, base_layers, data, batch, scorer.encoder.reader, generator)._asdict()

    digest = weights_digest(base)
    course = MiniCourse(
        recipe,
        batches(data, neighbours, seed=recipe.seed),
        lambda losses: Losses(**losses).total,
        {"data": data.digest, "base_sha256": digest},
    )
    progress = run(
        Learner({"model": model, "head": head}, losses),
        groups,
        course,
        out,
        measure=lambda: dev_point(scorer, dev),
        report=report,
    )
    card = card_of(recipe, data, progress, sources=sources, thresholds=calibrate(scorer, calibration))
    origin = {"base": recipe.base, "base_sha256": digest}
    on_main(lambda: mini_weights.save(model, out, **origin, layers=recipe.layers, n_frozen=recipe.n_frozen, card=card))
    finish(out)
    scorer.encoder.card, scorer.thresholds = card, card["thresholds"]
    return scorer


def card_of(
    recipe: Any, data: TrainingSet, progress: Progress, *, sources: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """What is known of weights, as their file keeps it."""
    return {
        "recipe": asdict(recipe),
        "sources": list(sources),
        "n_questions": len(data.questions),
        "n_passages": len(data.passages),
        "seconds": round(progress.seconds),
        "dev": progress.dev[-1][1] if progress.dev else {},
        "thresholds": thresholds,
    }


def _start(base: Any, recipe: Recipe, data: TrainingSet, device: torch.device) -> tuple[LateInteraction, nn.ModuleList]:
    """The model before its first step, and the layers of the base that it must stay near."""
    model = mini_weights.untrained(base, layers=recipe.layers, n_dims=recipe.n_dims).to(device)
    whole = mini_weights.untrained(base, layers=range(base.config.num_hidden_layers), n_dims=1)
    base_layers = whole.encoder.layers[recipe.n_frozen :].to(device).requires_grad_(False)
    _first_projection(model, data)
    return model, base_layers


def _first_projection(model: LateInteraction, data: TrainingSet, n: int = 64) -> None:
    """Start both projections at the principal axes of token states: cosines then begin nearly where the base's are."""
    longest = data.passages[:: max(1, len(data.passages) // n)][:n]
    device = model.query.weight.device
    with torch.no_grad():
        ids = torch.tensor([token for p in longest for token in p.ids], device=device)
        blocks = [block.to(device) for block in pack([len(p.ids) for p in longest], step=16)]
        states = torch.nn.functional.normalize(model.encoder(ids, blocks), dim=-1)
        axes = torch.linalg.eigh((states.T @ states).double().cpu()).eigenvectors.flip(1)[:, : len(model.query.weight)]
        model.query.weight.copy_(axes.T)
        model.passage.weight.copy_(axes.T)


def _groups(model: LateInteraction, head: TrainingHead, recipe: Recipe) -> list[Group]:
    encoder = model.encoder
    for module in (encoder.words, encoder.positions, encoder.norm, *encoder.layers[: recipe.n_frozen]):
        module.requires_grad_(False)
    layers = list(encoder.layers[recipe.n_frozen :].parameters())
    of_encoder = {id(p) for p in encoder.parameters()}
    heads = [p for p in (*model.parameters(), *head.parameters()) if id(p) not in of_encoder]
    return [Group(layers, recipe.lr, recipe.weight_decay), Group(heads, recipe.lr * recipe.head_factor)]


def dev_point(scorer: Mini, dev: Sequence[Dataset]) -> dict[str, float]:
    """Answers kept on each set, single passages at a quarter of the tokens, several at 5, 10 and 25 %."""
    found = {}
    for dataset in dev:
        ratios = (0.05, 0.1, 0.25) if len(dataset.examples[0].passages) > 1 else (0.25,)
        for measured in run_method(dataset, "mini", scorer, [Budget(r) for r in ratios], scorer.count_tokens):
            found[f"{dataset.name} {measured.budget}"] = weighted_mean(measured.answer)
    return found
