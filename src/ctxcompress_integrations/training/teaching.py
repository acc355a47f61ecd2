"""The losses of one step: a reader is shown passages and asked; gradients reach the summarizer, the reader or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import base_of
from ctxcompress_integrations.hf.packed import Packed, packed_states
from ctxcompress_integrations.hf.positions import position_limit
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training.lessons import KINDS, Lesson, Shown
from ctxcompress_integrations.training.script import Script, fitted, script_of

SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
"""Fields of configs by which models multiply or divide what their head gives."""


class Teaching(nn.Module):
    """A reader and what writes vectors for it, as one module, so that whatever wraps modules wraps all that learns.

    Args:
        reader: a decoder LM.
        splicer: of the reader.
        prompt: with ``{context}`` and ``{question}``.
        written: modules of the summarizers, to be found by optimizers.
        recomputes: forwards are run again in the backward, which saves the memory of their states.

    Raises:
        UnsupportedModelError: a reader whose logits are more than its head's output (Gemma 2, Granite, Cohere).
    """

    def __init__(
        self, reader: Any, splicer: Splicer, *, prompt: str, written: Sequence[nn.Module] = (), recomputes: bool = False
    ) -> None:
        super().__init__()
        config = base_of(reader).config.get_text_config()
        if getattr(config, "final_logit_softcapping", None):
            raise UnsupportedModelError(f"{type(reader).__name__} caps its logits, which this training does not")
        for field in SCALES:
            if (scale := getattr(config, field, None)) not in (None, 1):
                raise UnsupportedModelError(
                    f"{type(reader).__name__} scales its logits ({field}={scale}), which this training does not: take "
                    "another reader"
                )
        self.reader, self.written = reader, nn.ModuleList(written)
        self.splicer, self.prompt, self.recomputes = splicer, prompt, recomputes

    def forward(
        self,
        lessons: Sequence[Lesson],
        summarizer: TokenSummarizer[Any] | None,
        distil: float = 0.0,
        imitator: TokenSummarizer[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Mean negative log likelihood of the answers' tokens by kind of task, those kinds that occur; "distil": the
        mean divergence from what the reader itself says with the full text, at the answers of questions; "imitate":
        how far an imitator's vectors are from the summarizer's, squared, as a share of their squared length.

        Args:
            lessons: of one step.
            summarizer: that writes the vectors; None when every passage is shown as text.
            distil: 0 leaves that loss, and the forward that it costs, out.
            imitator: learns to write what ``summarizer`` writes; a reader that learns nothing reads nothing meanwhile.

        Passages that are asked for themselves are given back as far as the reader's positions reach.

        Raises:
            ValueError: the two write another number of vectors; a question with its answer takes more positions than
                the reader has.
        """
        if imitator is not None and summarizer is not None:
            losses = {"imitate": self._distance(lessons, summarizer, imitator)}
            learns = any(parameter.requires_grad for parameter in self.reader.parameters())
            return losses | (self(lessons, summarizer, distil) if learns else {})
        texts = list(dict.fromkeys(p.text for lesson in lessons for p in lesson.passages if p.as_vectors))
        vectors: Mapping[str, Tensor] = {}
        if texts and summarizer is not None:
            made = self._run(summarizer.written, texts)
            vectors = dict(zip(texts, made, strict=True))
        scripts = [self._script(lesson, vectors) for lesson in lessons]
        logits = self._logits(lessons, scripts, vectors)
        targets = torch.tensor([t for script in scripts for t in _answers(script)], device=logits.device)
        kinds = [task.kind for lesson in lessons for task in lesson.tasks]
        counts = [n for script in scripts for n in script.n_answers]
        of_kind = torch.tensor([KINDS.index(k) for k, n in zip(kinds, counts, strict=True) for _ in range(n)])
        of_kind = of_kind.to(logits.device)
        nll = F.cross_entropy(logits, targets, reduction="none")
        losses = {kind: nll[of_kind == i].mean() for i, kind in enumerate(KINDS) if kind in kinds}
        if distil and "answer" in losses:
            losses["distil"] = self._divergence(lessons, logits[of_kind == KINDS.index("answer")])
        return losses

    def _distance(
        self, lessons: Sequence[Lesson], summarizer: TokenSummarizer[Any], imitator: TokenSummarizer[Any]
    ) -> Tensor:
        """Between what both write for every passage of the lessons."""
        texts = list(dict.fromkeys(passage.text for lesson in lessons for passage in lesson.passages))
        with torch.no_grad():
            wanted = torch.cat(summarizer.written(texts)).float()
        found = torch.cat(self._run(imitator.written, texts)).float()
        if found.shape != wanted.shape:
            raise ValueError(
                f"{imitator.name} writes {len(found)} vectors where {summarizer.name} writes {len(wanted)}: what is "
                "imitated needs the same segments and as many vectors of each"
            )
        return (found - wanted).square().sum() / wanted.square().sum()

    def _divergence(self, lessons: Sequence[Lesson], logits: Tensor) -> Tensor:
        """KL from the reader with full text to the given logits ``[n, v]`` of the questions' answers."""
        only = [replace(x, tasks=tuple(t for t in x.tasks if t.kind == "answer")) for x in lessons]
        full = [replace(x, passages=tuple(Shown(p.text, False) for p in x.passages)) for x in only if x.tasks]
        with torch.no_grad():
            taught = self._logits(full, [self._script(x, {}) for x in full], {})
        return F.kl_div(logits.log_softmax(-1), taught.log_softmax(-1), log_target=True, reduction="batchmean")

    def _script(self, lesson: Lesson, vectors: Mapping[str, Tensor]) -> Script:
        script, limit = script_of(lesson, self.splicer, self.prompt), position_limit(base_of(self.reader))
        n_more = sum(len(vectors[p.text]) - 1 for p in lesson.passages if p.as_vectors)  # than a place held open
        return script if limit is None else fitted(script, lesson.tasks, limit - n_more)

    def _logits(self, lessons: Sequence[Lesson], scripts: Sequence[Script], vectors: Mapping[str, Tensor]) -> Tensor:
        """float32 ``[n, v]``: one row per token of all answers, in order."""
        packed = [
            self._packed(script, [vectors[p.text] if p.as_vectors else None for p in lesson.passages])
            for lesson, script in zip(lessons, scripts, strict=True)
        ]
        states = self._run(packed_states, self.reader, packed)
        places = [
            (i, j) for i, (row, script) in enumerate(zip(packed, scripts, strict=True)) for j in _scored(row, script)
        ]
        rows, columns = zip(*places, strict=True)
        logits: Tensor = base_of(self.reader).get_output_embeddings()(states[list(rows), list(columns)])
        return logits.float()

    def _packed(self, script: Script, vectors: Sequence[Tensor | None]) -> Packed:
        table = self.reader.get_input_embeddings()
        ids = [*script.beginning, *(token for ending in script.endings for token in ending)]
        rows = table(torch.tensor([max(0, token) for token in ids], device=table.weight.device))
        pieces, last = [], 0
        for place, token in enumerate(script.beginning):
            if token < 0 and (inserted := vectors[-1 - token]) is not None:
                pieces += [rows[last:place], inserted.to(rows)]
                last = place + 1
        whole = torch.cat([*pieces, rows[last:]])
        lengths = tuple(map(len, script.endings))
        return Packed(whole, len(whole) - sum(lengths), lengths)

    def _run(self, function: Any, *arguments: Any) -> Any:
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


def _answers(script: Script) -> Iterator[int]:
    for ending, n in zip(script.endings, script.n_answers, strict=True):
        yield from ending[-n:]


def _scored(row: Packed, script: Script) -> Iterator[int]:
    """Places in a row whose states predict an answer's tokens."""
    end = row.n_shared
    for length, n in zip(row.lengths, script.n_answers, strict=True):
        end += length
        yield from range(end - n - 1, end - 1)
