"""probe: which heads of a decoder LM point at the answer, learnt by logistic regression (Sentinel, arXiv:2505.23277).

Prompt: the passage, a request to answer in a few words, the question. Trigger: the last prompt token. One forward gives
its attention in every head of every layer; each head's weights are divided by their mean over the passage, so that 1 is
"average" whatever the passage's length. A sentence's features are the means over its tokens; the regression turns them
into the probability that the sentence holds the answer. Written from the paper's description: nobody's code or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ctxcompress_integrations.errors import UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.probe import ProbeHead
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import Window, refuse
from ctxcompress_integrations.scorers.quito import DEFAULT_MODEL, LongInput, Quito
from ctxcompress_integrations.text.pieces import Floats, sentence_features, sentence_pieces

LEAD = "Read this text:\n"  # LMs park idle attention on the first token: it must not be one of the passage
ASK = "\n\nAnswer the question from the text, in one or a few words.\nQuestion: "
END = "\nAnswer:"


class AllHeads(Quito):
    """QUITO's reading under the probe's prompt, with every head of every layer for itself.

    ``scores`` are QUITO's, of ``layer``; ``evidence`` is ``[f, n]``: each head's attention over the passage, mean 1, in
    the order layer 0 head 0, layer 0 head 1 ...

    Args:
        template: None for the probe's prompt as a user turn of the chat template (or bare, when there is none), "plain"
            for the bare form, or a text of one's own with ``{passage}`` and ``{query}``.

    Raises:
        UnsupportedModelError: slow tokenizer, layers without softmax attention or with different numbers of heads.
    """

    name: ClassVar[str] = "all_heads"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        layer: int = -1,
        template: str | None = None,
        max_tokens: int | None = None,
        long_input: LongInput = "windows",
    ) -> None:
        super().__init__(model, tokenizer, layer=layer, template=template, max_tokens=max_tokens, long_input=long_input)
        if template in (None, "plain"):
            bare = self.template
            self.template = replace(bare, prefix=bare.prefix + LEAD, middle=ASK, suffix=END + bare.suffix)
        config = model.config.get_text_config()
        self.n_layers, self.n_heads = int(config.num_hidden_layers), config.num_attention_heads
        if not isinstance(self.n_heads, int):
            raise UnsupportedModelError(
                f"{type(model).__name__} has layers with different numbers of heads; the probe needs one number"
            )

    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        try:
            read = list(self._trigger_attention(windows, range(self.n_layers)))
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"the probe reads every layer, the method 'quito' only one: {error}") from error
        return [
            Relevance(offsets, layers[self.layer].mean(axis=0), _shares(np.concatenate(layers)), weight=float(n_prompt))
            for offsets, n_prompt, layers in read
        ]


class Probe(AllHeads):
    """Every head's attention over the passage, weighed by what a training set showed of each.

    A sentence's score is a probability, comparable between passages. ``scores`` of tokens are log-odds; their mean over
    a sentence is the sentence's. The regression was fitted with both classes weighed alike, so 0.5 separates them best
    and is no share of sentences.

    Args:
        head: trained on this very model.
        max_tokens, long_input: as for :class:`~ctxcompress_integrations.scorers.quito.Quito`.

    Raises:
        WeightsMismatchError: the head was trained on a model of other dimensions.
    """

    name: ClassVar[str] = "probe"
    sigma = 0.0

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: ProbeHead,
        *,
        max_tokens: int | None = None,
        long_input: LongInput = "windows",
    ) -> None:
        super().__init__(model, tokenizer, template=head.template, max_tokens=max_tokens, long_input=long_input)
        if (head.layers, head.heads) != (self.n_layers, self.n_heads):
            raise WeightsMismatchError(
                f"the probe was trained on {head.base!r} with {head.layers} layers of {head.heads} heads, this model "
                f"has {self.n_layers} of {self.n_heads}: load {head.base!r}, or train a probe for this model"
            )
        self.head = head

    @classmethod
    def load(
        cls,
        *,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        layer: int | None = None,
        weights: Any = None,
        long_input: LongInput = "windows",
    ) -> Self:
        """As :meth:`Scorer.load`; ``weights`` is the file that ``ctxcompress train probe`` made for this model."""
        refuse(cls.name, layer=layer)
        name = model or DEFAULT_MODEL
        if weights is None:
            raise ValueError(
                "the scorer 'probe' needs weights trained for its model: make them with "
                f"'ctxcompress train probe --model {name} --data ROWS.jsonl --out FILE' and pass weights=FILE"
            )
        head = ProbeHead.load(Path(weights), base=name)
        return cls(*load_decoder(name, device=device, dtype=dtype), head, long_input=long_input)

    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        read = super()._score_batch(windows)
        return [self._judged(window.text, tokens) for window, tokens in zip(windows, read, strict=True)]

    def _judged(self, text: str, tokens: Relevance) -> Relevance:
        pieces = sentence_pieces(text, tokens)
        log_odds = self.head(sentence_features(pieces)).astype(np.float64)
        probability = np.exp(-np.logaddexp(0, -log_odds)).astype(np.float32)
        return Relevance(pieces.offsets, self.head(pieces.rows.T), probability[pieces.sentence][None])


def _shares(rows: Floats) -> Floats:
    """Each row of ``[f, n]`` divided by its mean; 1 everywhere for a head that sees nothing of the passage."""
    total = rows.sum(axis=1, keepdims=True)
    seen = total > np.finfo(np.float32).tiny
    found: Floats = np.where(seen, rows * (rows.shape[1] / np.where(seen, total, 1)), np.float32(1)).astype(np.float32)
    return found
