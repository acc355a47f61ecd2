"""Hard negatives: the passages that lie nearest to each passage and to what is asked of it, by vectors and by words."""

from __future__ import annotations

import copy
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.hf.weights_file import WeightsFormat
from ctxcompress_integrations.training.mini_data import N_NEIGHBOURS, TrainingSet
from ctxcompress_integrations.training.processes import is_main

FORMAT = WeightsFormat("ctxcompress-neighbours", "1", cure="delete it")


def neighbours_of(data: TrainingSet, base: Any, tokenizer: Any, kept: Path) -> NDArray[np.int64]:
    """int64 ``[passages, N_NEIGHBOURS]``, hardest first, by the vectors of the encoder ``base``.

    The file ``kept`` spares a second start with the same data and base the work; any other is written anew.
    """
    origin = {"data": data.digest, "base": weights_digest(base)}
    if FORMAT.is_format_of(kept):
        metadata, tensors = FORMAT.read(kept)
        if {name: metadata.get(name) for name in origin} == origin:
            return tensors["neighbours"].numpy()
    encoder = TextEncoder(copy.deepcopy(base).to(torch.bfloat16), tokenizer, name="base")
    passages = encoder.embed_documents([p.text for p in data.passages])
    neighbours = find_neighbours(data, passages, encoder.embed_documents([q.text for q in data.questions]))
    if is_main():
        FORMAT.write(kept, {"neighbours": torch.from_numpy(neighbours)}, origin)
    return neighbours


def find_neighbours(
    data: TrainingSet, passages: NDArray[np.float32], questions: NDArray[np.float32]
) -> NDArray[np.int64]:
    """By turns what a passage and its questions find by vectors, as the package's index does, and what its questions
    find by words: int64 ``[passages, N_NEIGHBOURS]``, fewer columns for fewer passages.

    Args:
        data: the set.
        passages, questions: unit vectors ``[passages, d]`` and ``[questions, d]``.
    """
    import faiss

    index = faiss.IndexFlatIP(passages.shape[1])
    index.add(passages)
    n_found, n_kept = min(2 * N_NEIGHBOURS, len(passages)), min(N_NEIGHBOURS, len(passages) - 1)
    by_passage, by_question = index.search(passages, n_found)[1], index.search(questions, n_found)[1]
    by_words = _found_by_words(data, n_found)
    neighbours = np.empty((len(passages), n_kept), dtype=np.int64)
    for p, nearest in enumerate(by_passage):
        asked = data.of_passage.get(p, [])
        vectors = dict.fromkeys(np.stack([nearest, *by_question[asked]]).T.ravel().tolist())
        words = dict.fromkeys(by_words[asked].T.ravel().tolist())
        turns = (n for pair in zip_longest(vectors, words) for n in pair)
        neighbours[p] = [n for n in dict.fromkeys(turns) if n is not None and n != p][:n_kept]
    return neighbours


def _found_by_words(data: TrainingSet, n_found: int) -> NDArray[np.int64]:
    """BM25's passages for each question, best first, int64 ``[questions, n_found]``."""
    bm25s = require("bm25s", extra="train")
    index = bm25s.BM25()
    index.index(bm25s.tokenize([p.text for p in data.passages], show_progress=False), show_progress=False)
    questions = bm25s.tokenize([q.text for q in data.questions], show_progress=False)
    found: NDArray[np.int64] = index.retrieve(questions, k=n_found, return_as="documents", show_progress=False)
    return found.astype(np.int64)
