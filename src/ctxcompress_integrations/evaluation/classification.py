"""Labelled texts and pairs of texts, and what a classifier makes of them: accuracy, operations, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctxcompress_integrations.evaluation.jsonl import DatasetError, find_file, read_rows
from ctxcompress_integrations.nn.classifier import TextClassifier
from ctxcompress_integrations.nn.flops import BERT_BASE, encoder_flops, lengths_by_layer, shape_of
from ctxcompress_integrations.nn.packed_encoder import Block, pack

MAX_TOKENS = 128
STEP = 16
"""Lengths are rounded up to it within attention, so that a batch is few products."""


class Labelled(NamedTuple):
    """One row: a text, or a question and a text, as token ids with [CLS] and [SEP].

    Attributes:
        ids: token ids.
        is_query: which of them are the question's, its [SEP] included; none where a single text is classified.
        label: from 0.
    """

    ids: list[int]
    is_query: list[bool]
    label: int


class Batch(NamedTuple):
    """Rows packed end to end: ``ids`` and ``protected`` ``[n]``, blocks, ``labels`` ``[s]``."""

    ids: Tensor
    blocks: list[Block]
    protected: Tensor
    labels: Tensor
    lengths: list[int]


class Figures(NamedTuple):
    """What a classifier did on some rows.

    Attributes:
        accuracy: share of right labels.
        flops: operations of all rows, samplers and head included.
        bert_flops: what BERT-base with the same head would have taken for the same tokens.
        kept: tokens that went into the layers, as a share of all tokens through all layers.
    """

    accuracy: float
    flops: int
    bert_flops: int
    kept: float

    @property
    def times_fewer(self) -> float:
        """BERT-base's operations over the classifier's."""
        return self.bert_flops / self.flops


def load_labelled(folder: Path, name: str, tokenizer: Any, *, limit: int | None = None) -> list[Labelled]:
    """The rows ``{sentence, label}`` or ``{question, sentence, label}`` of a file, tokenized.

    Args:
        folder, name: as for :func:`~ctxcompress_integrations.evaluation.jsonl.find_file`.
        tokenizer: fast, of the encoder.
        limit: rows to take, evenly spread; None for all.

    Raises:
        DatasetError: no such file, or a row that is no such object.
    """
    path = find_file(folder, name)
    rows = list(read_rows(path))
    if limit is not None and limit < len(rows):
        rows = [rows[i * len(rows) // limit] for i in range(limit)]
    found = []
    for number, row in rows:
        texts = [row.get(key) for key in ("question", "sentence") if row.get(key) is not None]
        label = row.get("label")
        if not texts or not all(isinstance(t, str) for t in texts) or type(label) is not int or label < 0:
            raise DatasetError(f"{path}:{number} needs a text 'sentence' and a whole 'label', got {row!r:.120}")
        encoded = tokenizer(*texts, truncation=True, max_length=MAX_TOKENS, return_attention_mask=False)
        ids = list(encoded["input_ids"])
        n_query = 2 + ids[1:].index(tokenizer.sep_token_id) if len(texts) == 2 else 0
        found.append(Labelled(ids, [i < n_query for i in range(len(ids))], label))
    return found


def batch_of(rows: Sequence[Labelled], device: Any = "cpu", *, step: int = STEP) -> Batch:
    """Rows packed end to end."""
    lengths = [len(row.ids) for row in rows]
    return Batch(
        torch.tensor(list(chain.from_iterable(row.ids for row in rows)), device=device),
        [block.to(torch.device(device)) for block in pack(lengths, step=step)],
        torch.tensor(list(chain.from_iterable(row.is_query for row in rows)), device=device),
        torch.tensor([row.label for row in rows], device=device),
        lengths,
    )


@torch.no_grad()
def measure(
    classifier: TextClassifier, rows: Sequence[Labelled], *, threshold: float = 0.0, batch_size: int = 32
) -> Figures:
    """Accuracy and operations on rows; the classifier is in evaluation mode."""
    shape, width = shape_of(classifier.encoder), classifier.packed.words.embedding_dim
    head = 2 * classifier.head.out_features * len(rows)
    device = classifier.head.weight.device
    n_right, flops, bert, kept, n_tokens = 0, head * width, head * BERT_BASE.width, 0, 0
    for at in range(0, len(rows), batch_size):
        batch = batch_of(rows[at : at + batch_size], device)
        logits, depth = classifier(batch.ids, batch.blocks, batch.protected, threshold=threshold)
        n_right += int((logits.argmax(dim=-1) == batch.labels).sum())
        lengths = lengths_by_layer(depth, batch.lengths, len(shape.layers))
        flops += encoder_flops(shape, lengths)
        bert += encoder_flops(BERT_BASE, batch.lengths)
        kept += int(depth.sum())
        n_tokens += len(batch.ids)
    return Figures(n_right / len(rows), flops, bert, kept / (n_tokens * len(shape.layers)))


@torch.inference_mode()
def milliseconds(
    classifier: TextClassifier, rows: Sequence[Labelled], *, batch_size: int, threshold: float = 0.0, repeats: int = 3
) -> list[float]:
    """Milliseconds for all rows, in each of some passes; packing included, tokenizing not."""
    device = classifier.head.weight.device
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for at in range(0, len(rows), batch_size):
            batch = batch_of(rows[at : at + batch_size], device)
            classifier(batch.ids, batch.blocks, batch.protected, threshold=threshold)[0].cpu()
        found.append(1000 * (time.perf_counter() - started))
    return found[1:]  # the first one warms up
