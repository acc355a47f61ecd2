"""LLMLingua-2: a token classifier that says which tokens a summary would keep (arXiv:2403.12968)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from ctxcompress_integrations.evaluation.baselines.base import batches, by_sentence, word_means
from ctxcompress_integrations.hf.load import load_token_classifier
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest, refuse
from ctxcompress_integrations.scorers.request import RequestScorer
from ctxcompress_integrations.text.segment import segment, well_formed


class TokenClassifier(RequestScorer):
    """P(keep), label 1, averaged over the tokens of each word; the query is not looked at.

    A phrase (a word) is worth its P(keep) as in the release; a sentence the mean over its words, which is ours: the
    release knows no sentences. Other differences: one budget over the request instead of a rate within each chunk; no
    forced tokens or digits; windows of 512 tokens end with a sentence, where the release cuts at full stops and lines.

    Args:
        model: a token classification model with two labels; used under ``no_grad``, never changed.
        tokenizer: its fast tokenizer.
        max_tokens: tokens of a window, special tokens included.
        pads: whether windows of different lengths share a forward; None: on a GPU.
    """

    name: ClassVar[str] = "token_classifier"

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = 512, pads: bool | None = None) -> None:
        if max_tokens < 3:
            raise ValueError(f"max_tokens must be >= 3, got {max_tokens!r}")
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        is_cpu = model.get_input_embeddings().weight.device.type == "cpu"
        self.pads = not is_cpu if pads is None else pads
        self.batch_tokens = 2048 if is_cpu else 16384
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
    ) -> Self:
        refuse(cls.name, layer=layer, weights=weights)
        if model is None:
            example = "microsoft/llmlingua-2-xlm-roberta-large-meetingbank"
            raise ValueError(f"{cls.name} needs a checkpoint: pass model={example!r} or another name or folder")
        return cls(*load_token_classifier(model, device=device, dtype=dtype))

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(well_formed(text), add_special_tokens=False, verbose=False))

    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        encoded = [
            self.tokenizer(well_formed(t), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            for t in request.texts
        ]
        offsets = [np.asarray(e["offset_mapping"], dtype=np.int64).reshape(-1, 2) for e in encoded]
        cuts = [list(_windows(_ends(t, o), self.max_tokens - 2)) for t, o in zip(request.texts, offsets, strict=True)]
        windows = [e["input_ids"][a:b] for e, found in zip(encoded, cuts, strict=True) for a, b in found]
        kept = iter(self._keep(windows))
        results = []
        for text, spans, found in zip(request.texts, offsets, cuts, strict=True):
            p_tokens = np.concatenate([np.empty(0), *(next(kept) for _ in found)])
            words, first_words = segment(text)
            p_words = word_means(p_tokens, spans, words)
            lengths = np.diff(np.append(first_words, len(words)))
            values = np.add.reduceat(p_words, first_words) / lengths if len(words) else p_words
            results.append(by_sentence(text, values, p_words))
        return results

    @torch.no_grad()
    def _keep(self, windows: Sequence[list[int]]) -> list[NDArray[np.float32]]:
        """P(keep) of each token of each window, float32 ``[n]``."""
        device = self.model.get_input_embeddings().weight.device
        before, after = ([i] * (i is not None) for i in (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id))
        found: dict[int, NDArray[np.float32]] = {}
        for batch in batches([len(w) for w in windows], self.batch_tokens, pads=self.pads):
            rows = [torch.tensor([*before, *windows[i], *after], device=device) for i in batch]
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            with self._lock:
                logits = self.model(input_ids=pad_sequence(rows, batch_first=True), attention_mask=mask).logits
            for i, p in zip(batch, logits.float().softmax(dim=-1)[..., 1].cpu().numpy(), strict=True):
                found[i] = p[len(before) : len(before) + len(windows[i])]
        return [found[i] for i in range(len(windows))]


def _ends(text: str, offsets: NDArray[np.int64]) -> list[int]:
    """One past the last token of each sentence."""
    words, first_words = segment(text)
    starts = np.maximum.accumulate(offsets[:, 0]) if len(offsets) else offsets[:, 0]
    return [*np.searchsorted(starts, words[first_words[1:], 0]).tolist(), len(offsets)]


def _windows(ends: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """As many sentences as fit, in token numbers ``[start, end)``; a sentence longer than that is cut."""
    start = previous = 0
    for end in ends:
        if end - start > room and previous > start:
            yield start, previous
            start = previous
        while end - start > room:
            yield start, start + room
            start += room
        previous = end
    if previous > start:
        yield start, previous
