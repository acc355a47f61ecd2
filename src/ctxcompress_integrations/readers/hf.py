"""A Hugging Face decoder as a reader: text and summary vectors through ``inputs_embeds``, a LoRA adapter per corpus.

The model stays the caller's: adapters are in it only while they are read with, and nothing of its settings changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from ctxcompress_integrations.hf.adapters import Adapters
from ctxcompress_integrations.hf.borrow import lock_of
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.generate import (
    Decoding,
    TokenStream,
    answers,
    end_tokens,
    reading,
    stream_into,
    streamed,
)
from ctxcompress_integrations.hf.load import load_decoder
from ctxcompress_integrations.hf.positions import position_limit
from ctxcompress_integrations.hf.splice import Segment, Splicer, check_splicable, left_padded
from ctxcompress_integrations.readers.base import Part, Reader, check_request, check_summaries
from ctxcompress_integrations.records import SummaryVectors

Folders = Mapping[str, str | PathLike[str]]
NO_ADAPTERS: Folders = MappingProxyType({})


class _Prompt(NamedTuple):
    segments: list[Segment]
    n: int
    adapter: str | None


class HFReader(Reader):
    """A decoder LM that answers from text and from summary vectors.

    Args:
        model: a decoder LM (Llama, Qwen, Mistral, Gemma 2, GPT-2 ...), or one in a PeftModel, whose adapters are then
            those that can be named and whose base model reads where none is.
        tokenizer: its tokenizer.
        adapters: name -> folder or hub name of a LoRA adapter; ``SummaryVectors.adapter`` chooses among them, a prompt
            without vectors is read without any.
        template: None for the chat template (no frame when there is none), "plain" for no frame, as LLoCO's readers
            were trained.
        max_tokens: positions of prompt and answer together; None for what the model was trained on, or its
            rope scaling stretches that to.
        max_batch: prompts that one forward may hold.

    Raises:
        UnsupportedModelError: a decoder that embeddings alone do not reach, or an adapter that is more than LoRA.
        ModelLoadError: an adapter cannot be loaded.
    """

    reads_vectors = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        adapters: Folders = NO_ADAPTERS,
        template: str | None = None,
        max_tokens: int | None = None,
        max_batch: int = 8,
    ) -> None:
        super().__init__(max_batch=max_batch)
        check_splicable(model)
        self.model, self.tokenizer, self.max_batch = model, tokenizer, max_batch
        self.max_tokens = position_limit(model) if max_tokens is None else max_tokens
        self._splicer = Splicer(model.get_input_embeddings(), tokenizer, template=template)
        home = model.get_input_embeddings().weight.device
        self.device = None if home.type == "cpu" else home
        self._adapters = Adapters(model, adapters)
        self._ends = end_tokens(self._adapters.base, tokenizer)
        self._hashing = threading.Lock()

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto", adapters: Folders = NO_ADAPTERS) -> Self:
        """A reader by hub name or folder.

        Raises:
            ModelLoadError: the model or an adapter cannot be loaded.
        """
        return cls(*load_decoder(name, device=device, dtype=dtype), adapters=adapters)

    @property
    def adapters(self) -> frozenset[str]:
        """Names of the adapters that vectors may ask for."""
        return frozenset(self._adapters.digests)

    @property
    def identity(self) -> str:
        with self._hashing:
            return self._digest

    @cached_property
    def _digest(self) -> str:
        with lock_of(self._adapters.base):
            return weights_digest(self.model)

    def count_tokens(self, text: str) -> int:
        return self._splicer.count(text)

    def room(self, parts: Sequence[Part], *, max_new_tokens: int = 128) -> int | None:
        if self.max_tokens is None:
            return None
        taken = self._splicer.segments(check_request(parts, max_new_tokens, ()).parts)
        return self.max_tokens - max_new_tokens - sum(map(len, taken))

    def generate_many(
        self, prompts: Sequence[Sequence[Part]], *, max_new_tokens: int = 128, stop: Sequence[str] = ()
    ) -> list[str]:
        checked = [self._prompt(parts, max_new_tokens, stop) for parts in prompts]
        decoding = Decoding(self.tokenizer, self._ends, max_new_tokens, tuple(stop))
        order = sorted(range(len(checked)), key=lambda i: checked[i].n)  # little is padded
        texts: dict[int, str] = {}
        for start in range(0, len(order), self.max_batch):
            chosen = order[start : start + self.max_batch]
            batch = [checked[i] for i in chosen]
            with reading(self._adapters.base), self._adapters.generating([p.adapter for p in batch]) as generate:
                embeds = left_padded([self._splicer.embed(prompt.segments) for prompt in batch])
                texts.update(zip(chosen, answers(generate, self._adapters.base, embeds, decoding), strict=True))
        return [texts[i] for i in range(len(checked))]

    def stream(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> Iterator[str]:
        prompt = self._prompt(parts, max_new_tokens, stop)
        decoding = Decoding(self.tokenizer, self._ends, max_new_tokens, tuple(stop))

        def run(tokens: TokenStream) -> None:
            with reading(self._adapters.base), self._adapters.generating([prompt.adapter]) as generate:
                embeds = left_padded([self._splicer.embed(prompt.segments)])
                stream_into(tokens, generate, self._adapters.base, embeds, decoding)

        return streamed(run, decoding)

    def _prompt(self, parts: Sequence[Part], max_new_tokens: int, stop: Sequence[str]) -> _Prompt:
        parts = check_request(parts, max_new_tokens, stop).parts
        summaries = [part for part in parts if isinstance(part, SummaryVectors)]
        adapter = check_summaries(
            summaries,
            identity=self.identity if summaries else None,
            width=self._splicer.width,
            adapters=self._adapters.digests,
        )
        segments = self._splicer.segments(parts)
        n = sum(map(len, segments))
        if self.max_tokens is not None and n + max_new_tokens > self.max_tokens:
            raise ValueError(
                f"the prompt takes {n} positions and the answer up to {max_new_tokens}, the model reads "
                f"{self.max_tokens}; shorten the prompt, give fewer passages, or lower max_new_tokens"
            )
        return _Prompt(segments, n, adapter)
