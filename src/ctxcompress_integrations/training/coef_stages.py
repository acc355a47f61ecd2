"""The stages of Infor-Coef: what each one trains, and its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxcompress_integrations.evaluation.classification import Batch, batch_of, measure
from ctxcompress_integrations.nn.classifier import TextClassifier
from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder
from ctxcompress_integrations.nn.encoder_gates import EncoderGates, settled_at, size_of
from ctxcompress_integrations.nn.fold_gates import fold
from ctxcompress_integrations.nn.gated_encoder import gated_embedding, gated_layer
from ctxcompress_integrations.nn.hard_concrete import Multipliers
from ctxcompress_integrations.nn.token_sampler import entropy_term, norm_share
from ctxcompress_integrations.training.loop import Group, Learner, Losses, Measure
from ctxcompress_integrations.training.stages import Stage

if TYPE_CHECKING:
    from ctxcompress_integrations.training.infor_coef import Run

TEMPERATURE = 2.0
N_CURVE = 512
"""Dev rows of a point of the curve."""


def dense(run: Run, model: TextClassifier) -> Stage:
    """Labels alone."""

    def loss(numbers: Sequence[int], _: int) -> Losses:
        batch = _batch(run, numbers)
        states = model.packed.embed(batch.ids, batch.blocks)
        for layer in model.packed.layers:
            states = gated_layer(layer, states, batch.blocks, dropout=run.recipe.dropout)
        return {"labels": F.cross_entropy(model.logits(states, batch.blocks).float(), batch.labels)}

    return _stage(run, "dense", run.recipe.dense_steps, model, loss, lr=run.recipe.lr)


def static(run: Run, teacher: TextClassifier) -> tuple[Stage, Callable[[], TextClassifier]]:
    """Gates under a budget that tightens; the dense model's states and logits are followed. Layer i follows layer i: a
    layer that is gated off passes its input on, so depth stays what it was (the paper looks for the best match).
    """
    recipe = run.recipe
    model = copy.deepcopy(teacher).requires_grad_(True)
    gates, prices = EncoderGates(model.packed).to(run.device), Multipliers().to(run.device)

    def loss(numbers: Sequence[int], step: int) -> Losses:
        batch = _batch(run, numbers)
        values = gates.sample()
        states = gated_embedding(model.packed, batch.ids, batch.blocks, values)
        wanted, wanted_logits = _teacher(teacher, batch)
        far = []
        for i, layer in enumerate(model.packed.layers):
            states = gated_layer(layer, states, batch.blocks, gates=values.layer(i))
            far.append(((states - wanted[i]).square() * values.hidden.detach()).mean())
        target = 1 + (recipe.size - 1) * _ramp(run, step, recipe.static_steps)
        followed = _followed(run, model.logits(states, batch.blocks), wanted_logits, batch.labels)
        return {
            "followed": followed,
            "layers": recipe.layers * torch.stack(far).mean(),
            "price": prices(gates.expected_size(), target),
        }

    def made() -> TextClassifier:
        values = settled_at(gates, recipe.size)
        small = TextClassifier(fold(model.packed, values), n_labels=run.n_labels).to(run.device)
        with torch.no_grad():
            small.head.weight.copy_(model.head.weight[:, values.hidden > 0])
            small.head.bias.copy_(model.head.bias)
        return small

    def point() -> dict[str, float]:
        small = made().eval()
        return {
            "accuracy": measure(small, _some(run)).accuracy,
            "size": size_of(small.packed) / size_of(model.packed),
            "expected size": float(gates.expected_size().detach()),
        }

    stage = _stage(run, "static", recipe.static_steps, model, loss, gates=gates, prices=prices, point=point)
    return stage, made


def folded(run: Run, teacher: TextClassifier, model: TextClassifier) -> Stage:
    """The smaller model learns on."""

    def loss(numbers: Sequence[int], _: int) -> Losses:
        batch = _batch(run, numbers)
        states = model.packed.embed(batch.ids, batch.blocks)
        for layer in model.packed.layers:
            states = gated_layer(layer, states, batch.blocks, dropout=run.recipe.dropout)
        wanted = _teacher(teacher, batch)[1]
        return {"followed": _followed(run, model.logits(states, batch.blocks), wanted, batch.labels)}

    return _stage(run, "folded", run.recipe.folded_steps, model, loss)


def with_samplers(run: Run, model: TextClassifier) -> TextClassifier:
    """A copy with fresh samplers."""
    torch.manual_seed(run.recipe.seed)
    model = copy.deepcopy(model).requires_grad_(True)
    recipe = run.recipe
    encoder = DroppingEncoder(model.packed, sampled=recipe.sampled, n_inner=recipe.n_sampler, start=recipe.start)
    made = TextClassifier(encoder, n_labels=run.n_labels)
    made.head = model.head
    return made.to(run.device).eval()


def dynamic(run: Run, teacher: TextClassifier, model: TextClassifier) -> Stage:
    """The bottleneck: task + price x norm term + entropy. The paper's weight of the norm term is a multiplier here that
    climbs until the term is what ``recipe.tokens`` asks for.
    """
    recipe, prices = run.recipe, Multipliers().to(run.device)
    encoder: Any = model.encoder

    def loss(numbers: Sequence[int], step: int) -> Losses:
        batch = _batch(run, numbers)
        states, traces = encoder.masked(batch.ids, batch.blocks, batch.protected, dropout=recipe.dropout)
        target = 1 + (recipe.tokens - 1) * _ramp(run, step, recipe.dynamic_steps)
        wanted = _teacher(teacher, batch)[1]
        return {
            "followed": _followed(run, model.logits(states, batch.blocks), wanted, batch.labels),
            "price": prices(norm_share(traces), target),
            "entropy": recipe.entropy * entropy_term(traces),
        }

    return _stage(run, "dynamic", recipe.dynamic_steps, model, loss, prices=prices)


def _stage(
    run: Run,
    name: str,
    n_steps: int,
    model: TextClassifier,
    loss: Callable[[Sequence[int], int], Losses],
    *,
    lr: float | None = None,
    gates: EncoderGates | None = None,
    prices: Multipliers | None = None,
    point: Measure | None = None,
) -> Stage:
    """A stage whose embeddings stay frozen, whose gates learn at a constant rate and whose prices climb."""
    recipe = run.recipe
    peak = recipe.late_lr if lr is None else lr
    for frozen in (model.packed.words, model.packed.positions, model.packed.norm):
        frozen.requires_grad_(False)
    modules: dict[str, nn.Module] = {"model": model}
    groups = [
        Group(list(model.packed.layers.parameters()), peak, recipe.weight_decay),
        Group(list(model.head.parameters()), peak * recipe.head_factor),
    ]
    if isinstance(model.encoder, DroppingEncoder):
        groups.append(Group(list(model.encoder.samplers.parameters()), peak * recipe.sampler_factor))
    if gates is not None:
        modules["gates"] = gates
        groups.append(Group(list(gates.parameters()), recipe.gate_lr, is_scheduled=False))
    if prices is not None:
        modules["prices"] = prices
        groups.append(Group(list(prices.parameters()), recipe.price_lr, is_scheduled=False, maximize=True))

    def measured() -> dict[str, float]:
        figures = measure(model, _some(run))
        return {"accuracy": figures.accuracy, "times fewer FLOPs": figures.times_fewer, "tokens": figures.kept}

    return Stage(
        name=name,
        steps=n_steps,
        batch_size=recipe.batch_size,
        n_rows=len(run.rows),
        eval_every=recipe.eval_every,
        seed=recipe.seed,
        recipe=run.plan,
        learner=Learner(modules, lambda *given: {key: part.float() for key, part in loss(*given).items()}),
        groups=groups,
        measure=point or measured,
        after=gates.hold if gates is not None else lambda: None,
        precision="bf16" if recipe.bf16 else "no",
    )


def _batch(run: Run, numbers: Sequence[int]) -> Batch:
    return batch_of([run.rows[i] for i in numbers], run.device)


def _some(run: Run) -> list[Any]:
    """Some dev rows, evenly spread."""
    step = max(1, len(run.dev) // N_CURVE)
    return list(run.dev[::step])


def _ramp(run: Run, step: int, n_steps: int) -> float:
    """From 0 to 1 over the first part of a stage."""
    return min(1.0, (step + 1) / max(1.0, run.recipe.ramp * n_steps))


@torch.no_grad()
def _teacher(teacher: TextClassifier, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """The dense model's states ``[n, d]`` after each layer, and its logits ``[s, c]``."""
    states, found = teacher.packed.embed(batch.ids, batch.blocks), []
    for layer in teacher.packed.layers:
        states = layer(states, batch.blocks)
        found.append(states)
    return found, teacher.logits(states, batch.blocks)


def _followed(run: Run, logits: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with the labels mixed with the divergence from the dense model's softened answer."""
    share = run.recipe.distill
    logits = logits.float()
    ours, theirs = (x / TEMPERATURE for x in (logits, wanted.float()))
    far = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True)
    return (1 - share) * F.cross_entropy(logits, labels) + share * TEMPERATURE**2 * far
