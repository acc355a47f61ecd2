"""Greedy answers from a decoder that somebody else owns, through transformers' own ``generate``.

Inside, whatever the checkpoint's generation config says of sampling and penalties is set aside; its end tokens count.
Afterwards the model is as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ctxcompress_integrations.hf.borrow import evaluating, lock_of
from ctxcompress_integrations.hf.splice import Batch
from ctxcompress_integrations.text.stops import cut_at, cut_stream

UNFINISHED = "\ufffd"
"""What a tokenizer decodes the first bytes of a character to, as long as the others are missing."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers end.

    Attributes:
        ends: ids of end tokens.
        max_new_tokens: longest answer.
        stop: texts that end an answer and are no part of it.
    """

    tokenizer: Any
    ends: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens say up to the first end token; special tokens say nothing."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        decoded: str = self.tokenizer.decode(
            list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def config(self) -> GenerationConfig:
        """Plain greedy search."""
        pad = self.tokenizer.pad_token_id
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=list(self.ends) or None,
            pad_token_id=self.ends[0] if pad is None and self.ends else pad,
        )


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The end tokens of the generation config, all of them, and the tokenizer's."""
    known = model.generation_config.eos_token_id
    listed = known if isinstance(known, list) else [known]
    return tuple(dict.fromkeys(end for end in [*listed, tokenizer.eos_token_id] if end is not None))


def answers(generate: Callable[..., Any], model: Any, batch: Batch, decoding: Decoding) -> list[str]:
    """Greedy answers to the prompts of a batch; to be called inside :func:`reading`.

    Args:
        generate: the decoder's, or PEFT's around it.
        model: the decoder.
    """
    ids = _generate(generate, model, batch, decoding)
    return [cut_at(decoding.text(row), decoding.stop)[0] for row in ids.tolist()]


def streamed(run: Callable[[TokenStream], None], decoding: Decoding) -> Iterator[str]:
    """Pieces of one answer as they come.

    Args:
        run: generates in a thread of its own, given the object to pass to :func:`stream_into`. Its errors are raised
            here; leaving the iterator ends it after the token that it is at.
    """
    return cut_stream(_pieces(run, decoding), decoding.stop)


def stream_into(
    tokens: TokenStream, generate: Callable[..., Any], model: Any, batch: Batch, decoding: Decoding
) -> None:
    """Generate for the single prompt of a batch, as :func:`answers` does."""
    if not tokens.is_cancelled():  # nobody may have waited for the model to be free
        _generate(generate, model, batch, decoding, tokens)


@contextmanager
def reading(model: Any) -> Iterator[None]:
    """Inside, this thread alone has the model, in inference mode, without dropout; afterwards it is as it was."""
    with lock_of(model), evaluating(model), torch.inference_mode():
        generation_config = model.generation_config
        try:
            # transformers fills the gaps of our config from the model's
            model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
            yield
        finally:
            model.generation_config = generation_config


def _generate(
    generate: Callable[..., Any], model: Any, batch: Batch, decoding: Decoding, tokens: TokenStream | None = None
) -> Tensor:
    """New token ids ``[b, t]``."""
    given: dict[str, Any] = {"inputs_embeds": batch.inputs_embeds, "attention_mask": batch.attention_mask}
    if "position_ids" in signature(model.forward).parameters:  # ALiBi models have none
        given["position_ids"] = batch.position_ids
    if decoding.stop or tokens is not None:
        given["stopping_criteria"] = StoppingCriteriaList([_Stopped(decoding, tokens)])
    if tokens is not None:
        given["streamer"] = tokens
    ids: Tensor = generate(generation_config=decoding.config(), **given)
    return ids


class TokenStream:
    """Token ids on their way from the generating thread to the reading one (transformers' streamer interface)."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[int] | BaseException | None] = SimpleQueue()
        self._cancelled = threading.Event()
        self.cancel, self.is_cancelled = self._cancelled.set, self._cancelled.is_set

    def put(self, value: Tensor) -> None:
        self.queue.put(value.reshape(-1).tolist())

    def end(self) -> None:
        pass


class _Stopped(StoppingCriteria):
    """Ends a row at a stop text, and everything when the consumer is gone."""

    def __init__(self, decoding: Decoding, tokens: TokenStream | None) -> None:
        self._decoding, self._tokens = decoding, tokens
        # a token says at least one byte, so the newest stop lies in the last so many; a few more say nothing
        self._window = max((len(s.encode()) for s in decoding.stop), default=0) + 8

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        if self._tokens is not None and self._tokens.is_cancelled():
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        done = [self._has_stop(row) for row in input_ids.tolist()] if self._decoding.stop else [False] * len(input_ids)
        return torch.tensor(done, device=input_ids.device)

    def _has_stop(self, ids: list[int]) -> bool:
        """Looked for at the end first, which is cheap, and then in the text as it will be cut."""
        return all(cut_at(self._decoding.text(some), self._decoding.stop)[1] for some in (ids[-self._window :], ids))


def _pieces(run: Callable[[TokenStream], None], decoding: Decoding) -> Iterator[str]:
    """Text as it becomes certain: what may be the beginning of a character waits for its end."""
    tokens = TokenStream()

    def work() -> None:
        try:
            run(tokens)
        except BaseException as error:  # noqa: BLE001 - it is the consumer's
            tokens.queue.put(error)
        finally:
            tokens.queue.put(None)

    thread = threading.Thread(target=work, name="ctxcompress-stream", daemon=True)
    thread.start()
    ids: list[int] = []
    n_given = 0
    try:
        while (news := tokens.queue.get()) is not None:
            if isinstance(news, BaseException):
                raise news
            ids += news
            certain = decoding.text(ids).rstrip(UNFINISHED)
            if len(certain) > n_given:
                yield certain[n_given:]
                n_given = len(certain)
        yield decoding.text(ids)[n_given:]
    finally:
        tokens.cancel()
        thread.join()
