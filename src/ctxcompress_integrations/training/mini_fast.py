"""``ctxcompress train mini-fast``: a thin encoder that follows the trained ``mini`` model.

Seven of twelve heads and 320 of 1,536 neurons of every layer are kept (``nn/thin_encoder.py``). Then that is
distilled: its states follow the whole model's layer by layer (TinyBERT, arXiv:1909.10351), its token vectors and its
ranking of sentences the whole model's. Beside that it learns, with less weight, which sentences and tokens answer, as
the whole model did.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxcompress_integrations.evaluation.datasets import Dataset, Example
from ctxcompress_integrations.hf import mini_weights, trained
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.load import MINI, load_encoder
from ctxcompress_integrations.nn.late_interaction import LateInteraction, TrainingHead
from ctxcompress_integrations.nn.packed_encoder import pack
from ctxcompress_integrations.nn.thin_encoder import thinned
from ctxcompress_integrations.scorers.mini import SHIPPED, Mini
from ctxcompress_integrations.training.calibration import calibrate
from ctxcompress_integrations.training.loop import Group, Learner, Losses, Progress, finish, run
from ctxcompress_integrations.training.mini import MiniCourse, card_of, dev_point
from ctxcompress_integrations.training.mini_batch import Matches, Texts, matched, texts_of
from ctxcompress_integrations.training.mini_data import Batch, TrainingSet, batches, build
from ctxcompress_integrations.training.mini_loss import sentence_losses, token_loss
from ctxcompress_integrations.training.neighbours import neighbours_of
from ctxcompress_integrations.training.processes import on_main

SCALE = 25.0
"""Turns scores into logits; the whole model's training starts from 20."""
FOLLOWING = {"layers": 0.5, "vectors": 4.0, "pooled": 4.0, "weights": 1.0, "scores": 1.5}
ANSWERING = {"among_all": 0.25, "in_passage": 0.25, "answerable": 0.12, "token": 0.05}
WEIGHTS = FOLLOWING | ANSWERING
N_FITTED = 300
"""Passages, evenly spread, that decide which heads and neurons stay."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome beside the data.

    Attributes:
        base: the encoder that the followed model was trained on.
        n_heads, n_inner: of every layer.
        lr, head_lr: peak learning rates of the model, and of the scales that only training needs; linear warm-up and
            decay.
        eval_every: steps between two points of the dev curve, and between checkpoints.
    """

    base: str = MINI
    n_heads: int = 7
    n_inner: int = 320
    steps: int = 8000
    lr: float = 4e-4
    head_lr: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 500


def train_mini_fast(
    examples: Sequence[Example],
    out: Path,
    recipe: Recipe,
    *,
    weights: Path | None = None,
    dev: Sequence[Dataset] = (),
    calibration: Sequence[Dataset] = (),
    sources: Sequence[str] = (),
    device: str = "auto",
    report: Callable[[Progress], None] = lambda _: None,
) -> Mini:
    """Train, write ``out`` and return the scorer.

    Args:
        examples: questions and passages; those of other data sets than ``dev`` and ``calibration``.
        out: weights file; ``out`` + ".checkpoint" holds the state while training, the curves lie beside in JSON.
        recipe: how.
        weights: of the model that is followed; the one that ships if None.
        dev, calibration, sources, device, report: as for :func:`~ctxcompress_integrations.training.mini.train_mini`.

    Raises:
        ValueError: no usable example; a checkpoint of another recipe, other data or another model to follow; more
            heads or neurons than there are.
        WeightsMismatchError: ``weights`` were made for another base, or are damaged.
    """
    target = resolve_device(device)
    torch.manual_seed(recipe.seed)
    base, tokenizer = load_encoder(recipe.base, device="cpu", dtype="float32")
    digest = weights_digest(base)
    whole, _ = mini_weights.load(weights or SHIPPED, base, name=recipe.base, base_sha256=digest)
    whole.eval().requires_grad_(False)
    data = build(examples, tokenizer)
    if not data.of_passage:
        raise ValueError(f"none of the {len(examples)} examples has a marked answer or supporting sentence")
    neighbours = neighbours_of(data, base.to(target), tokenizer, out.with_name(out.name + ".neighbours"))
    model, head = _start(whole, data, recipe).to(target), TrainingHead().to(target)
    whole.to(target)
    scorer = Mini(trained.TrainedEncoder(model.eval(), tokenizer), cache_bytes=0, has_bridges=True)

    def losses(batch: Batch, generator: random.Random) -> Losses:
        texts = texts_of(data, batch, scorer.encoder.reader, generator, target)
        found, matches = following(model, whole, texts)
        return {**found, **answering(matches, head, data, batch, texts)}

    course = MiniCourse(
        recipe,
        batches(data, neighbours, seed=recipe.seed),
        total,
        {"data": data.digest, "base_sha256": digest, "followed": weights_digest(whole)},
    )
    progress = run(
        Learner({"model": model, "head": head}, losses),
        _groups(model, head, recipe),
        course,
        out,
        measure=lambda: dev_point(scorer, dev),
        report=report,
    )
    card = card_of(recipe, data, progress, sources=sources, thresholds=calibrate(scorer, calibration))
    layers = range(len(model.encoder.layers))
    origin = {"base": recipe.base, "base_sha256": digest}
    on_main(lambda: mini_weights.save(model, out, **origin, layers=layers, n_frozen=0, card=card))
    finish(out)
    scorer.encoder.card, scorer.thresholds = card, card["thresholds"]
    return scorer


def following(model: LateInteraction, whole: LateInteraction, texts: Texts) -> tuple[Losses, Matches]:
    """How far the thin model is from the whole one on a batch, and what the thin one says of it.

    Returns:
        ``layers``: squared distance of the states after each layer, as a share of the states' own square; ``vectors``
        and ``pooled``: 1 - cosine of token vectors and of mean states; ``weights`` and ``scores``: divergence of the
        weights of a question's tokens, and of the choice among all sentences of the batch.
    """
    with torch.autocast(texts.ids.device.type, torch.bfloat16):
        with torch.no_grad():
            wanted = _states(whole, texts)
        found = _states(model, texts)
    far = [(ours - theirs).square().mean() / theirs.square().mean() for ours, theirs in zip(found, wanted, strict=True)]
    ours, theirs = matched(model, found[-1], texts), matched(whole, wanted[-1], texts)
    losses = {
        "layers": torch.stack(far).mean(),
        "vectors": torch.stack(
            [(1 - _cosine(a, b)).mean() for a, b in zip(ours.vectors, theirs.vectors, strict=True)]
        ).mean(),
        "pooled": (1 - _cosine(ours.pooled, theirs.pooled)).mean(),
        "weights": (theirs.weights * (theirs.weights / ours.weights).log()).sum() / len(texts.questions)
        + (ours.shares - theirs.shares).square().mean(),
        "scores": _divergence(ours, theirs),
    }
    return losses, ours


def answering(matches: Matches, head: TrainingHead, data: TrainingSet, batch: Batch, texts: Texts) -> Losses:
    """``among_all``, ``in_passage``, ``answerable`` and ``token``, as the whole model learned them
    (:class:`~ctxcompress_integrations.training.mini_loss.Losses`).
    """
    questions, layout = texts.questions, texts.layout
    of_sentences = sentence_losses(matches.scores, head, questions, data, batch, layout)
    of_tokens = token_loss(matches.triggers * head.token_scale.exp(), questions, data, layout)
    return dict(zip(ANSWERING, (*of_sentences, of_tokens), strict=True))


def total(losses: Losses) -> Tensor:
    """The weighted sum that is minimised."""
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def _states(model: LateInteraction, texts: Texts) -> list[Tensor]:
    """``[n, d]`` after each layer."""
    states, found = model.encoder.embed(texts.ids, texts.blocks), []
    for layer in model.encoder.layers:
        states = layer(states, texts.blocks)
        found.append(states.float())
    return found


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of unit vectors ``[n, p]``: ``[n]``."""
    return (ours * theirs).sum(dim=-1)


def _divergence(ours: Matches, theirs: Matches) -> Tensor:
    """Of the choices among all sentences, from scores ``[q, s]``."""
    return F.kl_div(
        (SCALE * ours.scores).log_softmax(dim=-1),
        (SCALE * theirs.scores).log_softmax(dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def _start(whole: LateInteraction, data: TrainingSet, recipe: Recipe) -> LateInteraction:
    """The thin model before its first step, on the CPU: it is made in doubles, once."""
    chosen = data.passages[:: max(1, len(data.passages) // N_FITTED)][:N_FITTED]
    ids = torch.tensor([token for passage in chosen for token in passage.ids])
    blocks = pack([len(passage.ids) for passage in chosen], step=16)
    encoder = thinned(whole.encoder, ids, blocks, n_heads=recipe.n_heads, n_inner=recipe.n_inner)
    model = LateInteraction(encoder, width=encoder.words.embedding_dim, n_dims=len(whole.query.weight))
    for name in ("query", "passage", "importance", "shares"):
        getattr(model, name).load_state_dict(getattr(whole, name).state_dict())
    return model


def _groups(model: LateInteraction, head: TrainingHead, recipe: Recipe) -> list[Group]:
    encoder = model.encoder
    for module in (encoder.words, encoder.positions, encoder.norm):
        module.requires_grad_(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    return [Group(learning, recipe.lr, recipe.weight_decay), Group(list(head.parameters()), recipe.head_lr)]
