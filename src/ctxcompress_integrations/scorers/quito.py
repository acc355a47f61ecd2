"""QUITO: how much a decoder LM's trigger token attends to each context token (arXiv:2408.00274).

Prompt: one user turn, the passage and then the query. Trigger: the last prompt token. Score of a context token: its
attention weight in the chosen layer, mean over heads. Differences from the authors' code, which is not used here: only
the trigger's row is computed, the passage is found through the template, long passages are read in windows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.attention import trigger_rows
from ctxcompress_integrations.hf.borrow import lock_of
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.positions import context_length
from ctxcompress_integrations.hf.prompt import PromptTemplate
from ctxcompress_integrations.nn.lambda_mask import LambdaShape
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import PairScorer, Window, refuse

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
LongInput: TypeAlias = Literal["windows", "lm_infinite"]
N_GLOBAL = 32


class Quito(PairScorer):
    """Attention of the last prompt token over the passage.

    Args:
        model: a decoder LM (Llama, Qwen, Mistral, GPT-2, Phi ...); used under ``no_grad``, never changed.
        tokenizer: its fast tokenizer.
        layer: whose attention is read; negative counts from the last. The paper takes the last.
        template: None for the chat template (or the bare text when there is none), "plain", or a text with
            ``{passage}`` and ``{query}``.
        max_tokens: longest prompt; None for what the model was trained on.
        long_input: what becomes of a passage beyond it. "windows": scored in overlapping windows, each under the query.
            "lm_infinite": read in one go with every layer's view held to ``max_tokens`` keys; the trigger's row then
            shows every token, those out of the model's view at half of ``max_tokens``. While such a passage is read,
            the model's lock is held: this package's other scorers and readers wait, code of your own should, too.

    Raises:
        UnsupportedModelError: slow tokenizer, a layer that does not exist, or a model that LM-Infinite cannot patch.
        PromptTemplateError: the passage cannot be found in what the template makes.
    """

    name: ClassVar[str] = "quito"
    reads_long: ClassVar[bool] = True
    sigma = 1.0

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
        super().__init__()
        if not tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer (use_fast=True)"
            )
        self.model, self.tokenizer, self.layer = model, tokenizer, layer
        self.template = PromptTemplate.of(tokenizer, template)
        self.max_tokens = context_length(model) if max_tokens is None else max_tokens
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {max_tokens!r}")
        if long_input not in get_args(LongInput):
            raise ValueError(f"long_input must be one of {', '.join(get_args(LongInput))}, got {long_input!r}")
        self.long_input = long_input
        if long_input == "lm_infinite":
            from ctxcompress_integrations.hf.lambda_models import supported_decoder

            decoder = supported_decoder(model, self._shape)
            if decoder.slopes is not None:
                raise UnsupportedModelError(
                    f"{type(decoder.model).__name__} is an ALiBi model, which shows no attention rows under "
                    "LM-Infinite: take long_input='windows'"
                )
        trained_on = model.get_input_embeddings().weight
        self.batch_tokens = 32768 if trained_on.is_cuda else 2048

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
        refuse(cls.name, weights=weights)
        return cls(
            *load_decoder(model or DEFAULT_MODEL, device=device, dtype=dtype),
            layer=-1 if layer is None else layer,
            long_input=long_input,
        )

    def _score_batch(self, windows: Sequence[Window]) -> list[Relevance]:
        # weights sum to 1 over the prompt: times its length they compare across passages of different lengths
        return [
            Relevance(offsets, heads.mean(axis=0), weight=float(n_prompt))
            for offsets, n_prompt, (heads,) in self._trigger_attention(windows, [self.layer])
        ]

    def _trigger_attention(
        self, windows: Sequence[Window], layers: Sequence[int]
    ) -> Iterator[tuple[NDArray[np.int64], int, list[NDArray[np.float32]]]]:
        """Of each window: offsets of its tokens ``[n, 2]``, tokens of its prompt, and per layer the trigger's attention
        to the window's tokens, ``[h, n]``.
        """
        prompts = [self.template.render(window.text, window.query) for window in windows]
        encoded = self.tokenizer(
            [prompt.text for prompt in prompts],
            add_special_tokens=self.template.adds_special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        with self._reach(max(map(len, encoded["input_ids"]))):
            rows = trigger_rows(self.model, encoded["input_ids"], layers)
        by_layer = [rows[layer].cpu().numpy() for layer in layers]  # layers may lie on several devices
        for i, (prompt, ids) in enumerate(zip(prompts, encoded["input_ids"], strict=True)):
            spans = np.asarray(encoded["offset_mapping"][i], dtype=np.int64).reshape(-1, 2)
            inside = (spans[:, 0] < prompt.end) & (spans[:, 1] > prompt.start) & (spans[:, 1] > spans[:, 0])
            clipped = spans[inside].clip(prompt.start, prompt.end) - prompt.start
            yield clipped, len(ids), [layer[i, :, : len(ids)][:, inside] for layer in by_layer]

    @contextmanager
    def _reach(self, n_tokens: int) -> Iterator[None]:
        """Where the model reads prompts of up to ``n_tokens``: in LM-Infinite, if that is wanted and needed, and then
        nobody else meanwhile.
        """
        if self.long_input == "windows" or n_tokens <= self.max_tokens:
            yield
            return
        from ctxcompress_integrations.hf.lambda_attention import lambda_window

        with lock_of(self.model), lambda_window(self.model, self._shape, rows_see_all=True):
            yield

    @property
    def _shape(self) -> LambdaShape:
        return LambdaShape(max(1, min(N_GLOBAL, self.max_tokens // 4)), self.max_tokens)

    def _token_offsets(self, text: str) -> NDArray[np.int64]:
        harmless = self.template.render(text, "").text[len(self.template.prefix) :][: len(text)]
        encoded = self.tokenizer(harmless, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)

    def _window_tokens(self, query: str) -> int:
        frame = self.tokenizer(self.template.render("", query).text, add_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        room = self.max_tokens - len(frame) - 8  # tokens that form where the passage meets its frame
        if room < 16:
            raise ValueError(
                f"the query takes {len(frame)} of the model's {self.max_tokens} tokens and leaves no room for a "
                "passage: shorten the query or take a model with a longer window"
            )
        return room if self.long_input == "windows" else sys.maxsize
