"""``ctxcompress bench infor-coef``: what pruning and dropping tokens cost in accuracy, and what they save.

Models come from ``--weights DIR``, as ``ctxcompress train infor-coef --out DIR/TASK.safetensors`` leaves them, dev rows
from ``--data``. Operations are counted as papers on pruning do: matrix products of the real tokens of the dev rows,
samplers and head included, against BERT-base over the same tokens. Times are against the dense MiniLM that everything
started from, run here and by transformers, whichever is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from ctxcompress_integrations.evaluation.classification import (
    Figures,
    Labelled,
    batch_of,
    load_labelled,
    measure,
    milliseconds,
)
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf import coef_weights
from ctxcompress_integrations.hf.device import resolve_device
from ctxcompress_integrations.hf.load import load_tokenizer
from ctxcompress_integrations.nn.classifier import TextClassifier
from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder
from ctxcompress_integrations.nn.flops import encoder_flops, lengths_by_layer, shape_of

TASKS = ("qnli_like", "wellformed")
THRESHOLDS = (-2.0, -1.0, 0.0, 1.0, 2.0)
N_TIMED, REPEATS = 128, 5
CPU_BATCHES, GPU_BATCHES = (1, 32), (1, 32, 256)


class Model(NamedTuple):
    """A weights file of the folder."""

    name: str
    classifier: TextClassifier
    card: dict[str, Any]

    @property
    def kind(self) -> str:
        """Which half of the method it has."""
        is_dropping = isinstance(self.classifier.encoder, DroppingEncoder)
        is_pruned = self.card["recipe"]["size"] < 1 and self.card["stage"] != "dense"
        return {(False, False): "dense", (True, False): "static only", (False, True): "dynamic only"}.get(
            (is_pruned, is_dropping), "both"
        )


def bench_infor_coef(
    report: Callable[[Row], None], *, data: Path | None, weights: Path | None, device: str = "auto"
) -> None:
    """Measure and hand each row to ``report`` as soon as it is known."""
    for task in TASKS:
        files = sorted(weights.glob(f"{task}*.safetensors")) if weights is not None else []
        main = weights / f"{task}.safetensors" if weights is not None else None
        if data is None or main not in files:
            why = f"no {task}.safetensors in {weights}: make it with ctxcompress train infor-coef --task {task}"
            why = why if data is not None and weights is not None else "give --data and --weights"
            for measured, unit, target in _promises(task):
                report(Row(measured, None, unit, target, why=why))
            continue
        _task(report, task, files, data, resolve_device(device))


def _promises(task: str) -> list[tuple[str, str, str]]:
    return [
        (f"{task}: fewer FLOPs than BERT-base", "x", ">= 18"),
        (f"{task}: accuracy lost to the dense model", "points", "<= 3"),
        *((f"{task}: time gained over FLOPs gained, batch {b}", "share", ">= 0.7") for b in CPU_BATCHES),
    ]


def _task(report: Callable[[Row], None], task: str, files: Sequence[Path], data: Path, device: Any) -> None:
    models = [Model(path.name, *_loaded(path, device)) for path in files]
    main = next(model for model in models if model.name == f"{task}.safetensors")
    rows = load_labelled(data, f"{task}_dev", load_tokenizer(main.card["recipe"]["base"]))
    found = [(model, measure(model.classifier, rows)) for model in models]
    dense = next(((m, figures) for m, figures in found if m.kind == "dense"), None)
    if dense is None:
        raise ValueError(f"no dense model of {task} beside {main.name}: the stages' files must lie in one folder")
    for model, figures in found:
        _curve(report, task, model, figures, rows)
    ours = next(figures for model, figures in found if model is main)
    (fewer, lost, *shares) = _promises(task)
    report(Row(fewer[0], ours.times_fewer, fewer[1], fewer[2], len(rows)))
    report(Row(lost[0], 100 * (dense[1].accuracy - ours.accuracy), lost[1], lost[2], len(rows)))
    _counted(report, task, main.classifier, rows)
    for batch_size in GPU_BATCHES if device.type == "cuda" else CPU_BATCHES:
        promise = next((p for p in shares if p[0].endswith(f"batch {batch_size}")), None)
        _times(report, task, batch_size, dense[0].classifier, main.classifier, rows, promise)


def _loaded(path: Path, device: Any) -> tuple[TextClassifier, dict[str, Any]]:
    classifier, _, card = coef_weights.load(path)
    return classifier.to(device), card


def _curve(report: Callable[[Row], None], task: str, model: Model, figures: Figures, rows: Sequence[Labelled]) -> None:
    """Accuracy and speed-up of one model; of one with samplers at several thresholds."""
    labels = {"task": task, "kind": model.kind, "file": model.name}
    thresholds = THRESHOLDS if isinstance(model.classifier.encoder, DroppingEncoder) else (0.0,)
    for threshold in thresholds:
        here = figures if threshold == 0 else measure(model.classifier, rows, threshold=threshold)
        name = f"{task}, {model.kind} ({model.name}" + (f", threshold {threshold:g})" if len(thresholds) > 1 else ")")
        marks = {**labels, "threshold": f"{threshold:g}"}
        report(Row(f"{name}: accuracy", here.accuracy, "share", n=len(rows), labels=marks))
        report(Row(f"{name}: FLOPs, BERT-base over it", here.times_fewer, "x", n=len(rows), labels=marks))
        if len(thresholds) > 1:
            report(Row(f"{name}: tokens through the layers", here.kept, "share", n=len(rows), labels=marks))


def _counted(report: Callable[[Row], None], task: str, classifier: TextClassifier, rows: Sequence[Labelled]) -> None:
    """The formula against torch's counter, over rows one at a time, which pads nothing."""
    some, ours, theirs = rows[:: max(1, len(rows) // 16)][:16], 0, 0
    shape = shape_of(classifier.encoder)
    for row in some:
        batch = batch_of([row], classifier.head.weight.device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _, depth = classifier(batch.ids, batch.blocks, batch.protected)
        theirs += counter.get_total_flops()
        ours += encoder_flops(shape, lengths_by_layer(depth, batch.lengths, len(shape.layers)))
        ours += 2 * classifier.head.weight.numel()
    measured = f"{task}: FLOPs by the formula, off from torch's counter"
    report(Row(measured, abs(ours / theirs - 1), "share", "<= 0.001", len(some)))


def _times(
    report: Callable[[Row], None],
    task: str,
    batch_size: int,
    dense: TextClassifier,
    ours: TextClassifier,
    rows: Sequence[Labelled],
    promise: tuple[str, str, str] | None,
) -> None:
    n_timed = max(N_TIMED, 4 * batch_size)
    some = list(rows[:: max(1, len(rows) // n_timed)][:n_timed])
    taken = {
        "dense": milliseconds(dense, some, batch_size=batch_size, repeats=REPEATS),
        "dense in transformers": _in_transformers(dense, some, batch_size),
        "ours": milliseconds(ours, some, batch_size=batch_size, repeats=REPEATS),
    }
    middle = {}
    for name, found in taken.items():
        per_row = [one / len(some) for one in found]
        middle[name] = statistics.median(per_row)
        measured = f"{task}, batch {batch_size}: {name}, a text"
        report(Row(measured, middle[name], "ms", n=REPEATS, spread=(min(per_row), max(per_row))))
    gain = min(middle["dense"], middle["dense in transformers"]) / middle["ours"]
    flops = measure(dense, some).flops / measure(ours, some).flops
    report(Row(f"{task}, batch {batch_size}: times faster than dense", gain, "x", n=REPEATS))
    report(Row(f"{task}, batch {batch_size}: FLOPs of the dense model over ours", flops, "x", n=len(some)))
    name, unit, target = promise or (f"{task}: time gained over FLOPs gained, batch {batch_size}", "share", ">= 0.7")
    report(Row(name, gain / flops, unit, target, REPEATS))


@torch.inference_mode()
def _in_transformers(dense: TextClassifier, rows: Sequence[Labelled], batch_size: int) -> list[float]:
    """Milliseconds of a BERT of the same sizes in transformers, its weights random, batches padded to their longest."""
    layer: Any = dense.packed.layers[0]
    device = dense.head.weight.device
    config = BertConfig(
        vocab_size=dense.packed.words.num_embeddings,
        hidden_size=dense.packed.words.embedding_dim,
        num_hidden_layers=len(dense.packed.layers),
        num_attention_heads=layer.n_heads,
        intermediate_size=layer.n_inner,
        max_position_embeddings=dense.packed.positions.num_embeddings,
    )
    model: Any = BertModel(config, add_pooling_layer=False)
    model.eval().to(device)
    found = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        for at in range(0, len(rows), batch_size):
            batch = rows[at : at + batch_size]
            lengths = torch.tensor([len(row.ids) for row in batch])
            mask = torch.arange(int(lengths.max())) < lengths[:, None]
            ids = torch.zeros(mask.shape, dtype=torch.long)
            ids[mask] = torch.tensor(list(chain.from_iterable(row.ids for row in batch)))
            given = mask.long().to(device) if len(batch) > 1 else None
            states = model(input_ids=ids.to(device), attention_mask=given).last_hidden_state
            dense.head(states[:, 0]).cpu()
        found.append(1000 * (time.perf_counter() - started))
    return found[1:]
