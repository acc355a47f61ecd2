"""A vLLM server as a reader: text in Chat Completions, summary vectors as its ``prompt_embeds`` content parts.

The server must run with ``--enable-prompt-embeds`` and hold the very weights that the vectors are made for. Servers
that do not know the content part yet (it came with vllm#40720) get the whole prompt as embeddings through
``/v1/completions``, made here, for which the model's embedding module and tokenizer must be at hand.

Limits, as of vLLM 0.33:

- The server unpacks tensors: vLLM calls the flag one for trusted users only. What is sent is a dense, contiguous
  ``torch.save`` of the vectors alone.
- With prefix caching the server's cache key leaves out which positions were embedded (vllm#56655): prompts that mix
  text and vectors may get another prompt's answer. Start it with ``--no-enable-prefix-caching`` until that is fixed.
- A chat template that takes strings and not parts gets them joined by newlines, which the server adds (one token or
  none at each border, not in :meth:`~VLLMReader.positions`).
- LoRA together with embeddings did not work when completions first took them (vllm#17590): try it on your server.
- No speculative decoding and no prompt log-probabilities together with embeddings.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any, NamedTuple

import regex
import torch
from torch import Tensor, nn

from ctxcompress_integrations.errors import ReaderError
from ctxcompress_integrations.hf.prompt import PromptTemplate
from ctxcompress_integrations.hf.splice import Splicer, vector_rows
from ctxcompress_integrations.readers.base import Part, Request, check_summaries
from ctxcompress_integrations.readers.pooled import PooledReader
from ctxcompress_integrations.readers.wire import RefusedError, Server
from ctxcompress_integrations.text.parts import split_parts

CHAT, COMPLETIONS = "/chat/completions", "/completions"
RESERVED = "<prompt_embeds>"
"""The server's own mark for vectors, which it refuses in texts."""
_UNKNOWN_PART = regex.compile(
    r"(unknown|unsupported|unrecognized|unexpected|invalid)\b.{0,80}\b(part|content)\b"
    r"|^(?=.*\b(?:content|prompt_embeds)\b).*\binput should be\b",
    regex.IGNORECASE,
)


class _Payload(NamedTuple):
    model: str
    content: str | list[dict[str, str]]
    parts: tuple[Part, ...]

    @property
    def has_vectors(self) -> bool:
        return not isinstance(self.content, str)


class VLLMReader(PooledReader):
    """A served model that answers from text and from summary vectors.

    Args:
        url: base of the server, "http://localhost:8000/v1".
        model: the name under which it serves the model.
        identity: digest of the served weights, as :attr:`HFReader.identity` gives it; without it no vectors are sent.
        adapters: name of an adapter -> the name under which the server serves the model with it.
        tokenizer: the model's, to count tokens and to keep literal special tokens in documents harmless.
        embedding: its input embedding module, for servers that take embeddings in completions alone.
        api_key: bearer token; the environment variable VLLM_API_KEY when None.
        timeout: seconds of silence after which a request fails.
        max_concurrency: requests that may be under way at one time.

    Raises:
        ValueError: a URL that is none, or an embedding without a tokenizer.
    """

    reads_vectors = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        identity: str | None = None,
        adapters: Mapping[str, str] = MappingProxyType({}),
        tokenizer: Any = None,
        embedding: nn.Module | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        max_concurrency: int = 8,
    ) -> None:
        super().__init__(max_concurrency=max_concurrency)
        if embedding is not None and tokenizer is None:
            raise ValueError("an embedding without a tokenizer embeds nothing: pass tokenizer=, too")
        self._server = Server(url, api_key=api_key or os.environ.get("VLLM_API_KEY"), timeout=timeout)
        self.model, self.tokenizer, self._identity, self._adapters = model, tokenizer, identity, dict(adapters)
        self.counts_tokens = tokenizer is not None
        self._frame = None if tokenizer is None else PromptTemplate.of(tokenizer, "plain")
        self._splicer = None if embedding is None else Splicer(embedding, tokenizer)
        self._refusal: str | None = None  # what the server said when it did not know vectors in a chat

    def __repr__(self) -> str:
        return f"VLLMReader({self._server.url!r}, {self.model!r})"

    @property
    def identity(self) -> str | None:
        return self._identity

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``.

        Raises:
            ValueError: the reader was built without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("this VLLMReader cannot count tokens: build it with tokenizer=, the served model's")
        return len(self.tokenizer.encode(self._harmless(text), add_special_tokens=False, verbose=False))

    def _payload(self, parts: tuple[Part, ...]) -> _Payload:
        texts, summaries = split_parts(parts)
        width = None if self._splicer is None else self._splicer.width
        known = dict.fromkeys(self._adapters)  # the server does not tell their weights
        adapter = check_summaries(summaries, identity=self._identity, width=width, adapters=known)
        model = self.model if adapter is None else self._adapters[adapter]
        texts = [self._harmless(text) for text in texts]
        if not summaries:
            return _Payload(model, texts[0], parts)
        content = [{"type": "text", "text": texts[0]}]
        for summary, text in zip(summaries, texts[1:], strict=True):
            content.append({"type": "prompt_embeds", "data": encode_tensor(vector_rows(summary))})
            content.append({"type": "text", "text": text})
        return _Payload(model, [part for part in content if part.get("text") != ""], parts)

    def _call(self, payload: _Payload, request: Request) -> str:
        for path, body in self._routes(payload, request):
            try:
                return _text(self._server.post(path, body), "message")
            except RefusedError as error:
                self._learn(error, payload, path)
        raise AssertionError("the last route answers or raises")

    def _call_streaming(self, payload: _Payload, request: Request) -> Iterator[str]:
        for path, body in self._routes(payload, request):
            try:
                with closing(self._server.events(path, body | {"stream": True})) as events:
                    for event in events:
                        if piece := _text(event, "delta"):
                            yield piece
            except RefusedError as error:  # before the first event
                self._learn(error, payload, path)
            else:
                return

    def _routes(self, payload: _Payload, request: Request) -> Iterator[tuple[str, dict[str, Any]]]:
        """Chat, and completions where the server turned out not to know the content part."""
        common = {"model": payload.model, "max_tokens": request.max_new_tokens, "temperature": 0.0}
        if request.stop:
            common["stop"] = list(request.stop)
        if self._refusal is None or not payload.has_vectors:
            yield CHAT, common | {"messages": [{"role": "user", "content": payload.content}]}
        if self._splicer is None:
            raise ReaderError(
                f"{self._server.url} knows no prompt_embeds in chats ({self._refusal}); update vLLM, or pass "
                "embedding= and tokenizer= of the served model, so that the whole prompt can travel as embeddings "
                "through /v1/completions"
            )
        with torch.inference_mode():
            rows = self._splicer.embed(self._splicer.segments(payload.parts))
        yield COMPLETIONS, common | {"prompt_embeds": encode_tensor(rows)}

    def _learn(self, error: RefusedError, payload: _Payload, path: str) -> None:
        """Raise the error again unless it says that the content part is not known, which is then remembered."""
        is_unknown = error.status in (400, 422, 501) and _UNKNOWN_PART.search(error.reason)
        if path != CHAT or not payload.has_vectors or not is_unknown:
            raise error
        self._refusal = error.reason

    def _harmless(self, text: str) -> str:
        text = text.replace(RESERVED, "\u2039" + RESERVED[1:])
        return text if self._frame is None else self._frame.harmless(text)


def encode_tensor(tensor: Tensor) -> str:
    """Base64 of ``torch.save``: dense and contiguous, with nothing but its own values."""
    buffer = io.BytesIO()
    torch.save(tensor.detach().cpu().contiguous().clone(), buffer)  # of a slice, the whole storage would be saved
    return base64.b64encode(buffer.getvalue()).decode()


def _text(answer: Any, field: str) -> str:
    """The text of a completion, or of a chat's ``message`` or ``delta``; "" for an event without one."""
    try:
        choices = answer["choices"]
        if not choices:  # the event that tells the usage
            return ""
        text = choices[0]["text"] if "text" in choices[0] else choices[0][field].get("content")
    except (KeyError, TypeError, AttributeError) as error:
        raise ReaderError(f"the server's answer has no text in it: {answer!r:.200}") from error
    return text or ""
