"""Data sets that reports know by name, their targets, and which part of them training may see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ctxcompress_integrations.evaluation.datasets import Dataset, Example, load_dataset
from ctxcompress_integrations.evaluation.jsonl import DatasetError, find_file
from ctxcompress_integrations.evaluation.overlap import apart

LANGUAGES = ("en", "es", "de", "el", "ru", "tr", "ar", "vi", "th", "zh", "hi", "ro")
DEFAULT = "mini"


def is_held_out(example: Example) -> bool:
    """True for the half of a training file, chosen by a hash of the id, that is kept for measuring."""
    return hashlib.sha256(example.id.encode()).digest()[0] % 2 == 0


def _is_in(language: str, example: Example) -> bool:
    return example.language == language


class _Source(NamedTuple):
    """Where a set comes from.

    Attributes:
        file: the beginning of the file's name.
        where: which of its examples to take; None for all.
        apart_from: the file of a training set in the same folder whose questions are left out; None for none.
    """

    file: str
    where: Callable[[Example], bool] | None = None
    apart_from: str | None = None


SETS: Mapping[str, _Source] = {
    **{f"xquad-{code}": _Source("xquad_12lang", partial(_is_in, code)) for code in LANGUAGES},
    "squad2": _Source("squad2_dev_half"),
    "qed": _Source("qed_dev", apart_from="nq_oracle_train"),  # 623 of 1,355 questions stand there
    "nq20": _Source("nq20_dev"),
    "hotpot": _Source("hotpot_train100", is_held_out),
    "2wiki": _Source("2wiki_train500", is_held_out),
    "musique": _Source("musique_train100"),
    "fairytaleqa": _Source("fairytaleqa_val"),
    "qmsum": _Source("qmsum_dev"),
}
TRAINING = (
    _Source("squad_train_subset"),
    _Source("squadshifts_new_wiki"),
    _Source("squadshifts_reddit"),
    _Source("nq_oracle_train"),
    _Source("nq_oracle_train"),  # twice: the only questions typed into a search box
    _Source("squad_train_sentpairs"),
    _Source("fairytaleqa_train"),
    _Source("hotpot_train100", lambda example: not is_held_out(example)),
    _Source("2wiki_train500", lambda example: not is_held_out(example)),
)
"""What the shipped weights are trained on."""
STANDARD = ("xquad-en", "squad2", "qed", "nq20", "hotpot", "2wiki", "musique", "fairytaleqa", "qmsum")
"""What is measured when no set is named."""

TARGETS: Mapping[tuple[str, str, str, str], str] = {
    ("xquad-en", DEFAULT, "keep_ratio 0.25", "answer kept"): ">= 0.90",
    ("squad2", DEFAULT, "keep_ratio 0.25", "answer kept"): ">= 0.90",
    ("nq20", DEFAULT, "keep_ratio 0.05", "answer kept"): ">= 0.85",
    ("nq20", DEFAULT, "keep_ratio 0.1", "answer kept"): ">= 0.93",
    ("nq20", DEFAULT, "keep_ratio 0.25", "answer kept"): ">= 0.985",
    **{
        (name, DEFAULT, "keep_ratio 0.25", "gap closed, answer kept"): ">= 0.85"
        for name in ("xquad-en", "squad2", "qed", "nq20", "fairytaleqa")
    },
    **{(name, DEFAULT, "keep_ratio 0.25", "gap closed, answer kept"): ">= 0.75" for name in ("hotpot", "2wiki")},
    ("musique", DEFAULT, "keep_ratio 0.25", "gap closed, answer kept"): ">= 0.75",
    **{
        (name, DEFAULT, "keep_ratio 0.25", f"all support kept, {DEFAULT} over bm25"): ">= 1.5"
        for name in ("hotpot", "2wiki", "musique")
    },
    **{
        (name, DEFAULT, "keep_ratio 0.1", f"answer kept, {DEFAULT} minus {DEFAULT}-untrained"): ">= 0.10"
        for name in ("hotpot", "2wiki", "musique")
    },
    **{
        (name, DEFAULT, "threshold auto", "tokens dropped where there is no answer"): ">= 0.80"
        for name in ("squad2", "qed")
    },
    **{
        (name, DEFAULT, "threshold auto", "answer kept"): ">= 0.99"
        for name in ("xquad-en", "squad2", "qed", "nq20", "fairytaleqa")
    },
}


def load_set(name: str, folder: Path | None, *, limit: int | None = None) -> Dataset:
    """A set by name from the data folder, or a file by its path.

    Args:
        name: of :data:`SETS`, or a path.
        folder: where the named files lie. "qed" leaves out the questions that training saw, and needs the training
            file, too; a file by its path is taken whole.
        limit: take this many examples, evenly spread; None for all.

    Raises:
        DatasetError: unknown name, no folder, no file, no usable row.
    """
    source = SETS.get(name)
    if source is None:
        if not Path(name).is_file():
            raise DatasetError(f"{name!r} is neither a file nor one of {', '.join(SETS)}")
        dataset = load_dataset(Path(name))
    else:
        if folder is None:
            raise DatasetError(f"the set {name!r} needs its folder: give --data or CTXCOMPRESS_DATA")
        dataset = load_dataset(find_file(folder, source.file), name=name, where=source.where)
        if source.apart_from is not None:
            dataset = apart(dataset, _seen_in_training(name, folder, source.apart_from))
    return _limited(dataset, limit)


def load_training(files: Sequence[Path] | None, folder: Path | None, *, limit: int | None = None) -> list[Dataset]:
    """The standard training sets from the data folder, or the files given.

    Of the standard ones, examples are left out whose question, or a passage that supports their answer, stands in one
    of the :data:`STANDARD` sets: what is measured must be new. Files that are given are taken whole.

    Raises:
        DatasetError: no folder, no file of a training set or of a standard one, no usable row.
    """
    if files:
        return [_limited(load_dataset(path), limit) for path in files]
    if folder is None:
        raise DatasetError("training needs files, or the folder of the standard sets: give --data or CTXCOMPRESS_DATA")
    measured = [example for name in STANDARD for example in load_set(name, folder).examples]
    sets = (load_dataset(find_file(folder, source.file), where=source.where) for source in TRAINING)
    return [_limited(apart(dataset, measured, passages=True), limit) for dataset in sets]


def untitled(dataset: Dataset) -> Dataset:
    """The same examples, their passages without metadata."""
    return replace(
        dataset,
        examples=tuple(
            replace(example, passages=tuple(replace(passage, metadata={}) for passage in example.passages))
            for example in dataset.examples
        ),
    )


def _seen_in_training(name: str, folder: Path, file: str) -> Sequence[Example]:
    try:
        return load_dataset(find_file(folder, file)).examples
    except DatasetError as error:
        raise DatasetError(f"the set {name!r} leaves out the questions that training saw: {error}") from error


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(dataset.examples):
        return dataset
    chosen = [dataset.examples[i * len(dataset.examples) // limit] for i in range(limit)]
    return Dataset(dataset.name, tuple(chosen), dataset.problems)
