"""Readers whose answers are made elsewhere, one call each: many calls wait side by side, but never more than a few."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ctxcompress_integrations.readers.base import Part, Reader, Request, check_request


class PooledReader(Reader):
    """A reader that makes one call per answer; subclasses write ``_payload``, ``_call`` and ``_call_streaming``.

    Args:
        max_concurrency: calls that may be under way at one time, streams not counted.
    """

    def __init__(self, *, max_concurrency: int = 8) -> None:
        super().__init__()
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be >= 1, got {max_concurrency!r}")
        self._pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="ctxcompress-call")

    @abstractmethod
    def _payload(self, parts: tuple[Part, ...]) -> Any:
        """The checked prompt in the form that is sent; calls nobody."""

    @abstractmethod
    def _call(self, payload: Any, request: Request) -> str:
        """One answer; runs in a thread of the pool."""

    @abstractmethod
    def _call_streaming(self, payload: Any, request: Request) -> Iterator[str]:
        """Pieces of one answer."""

    def generate_many(
        self, prompts: Sequence[Sequence[Part]], *, max_new_tokens: int = 128, stop: Sequence[str] = ()
    ) -> list[str]:
        requests = [check_request(parts, max_new_tokens, stop) for parts in prompts]
        payloads = [self._payload(request.parts) for request in requests]
        return list(self._pool.map(self._call, payloads, requests))  # an error cancels the calls that have not begun

    def stream(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> Iterator[str]:
        request = check_request(parts, max_new_tokens, stop)
        return self._call_streaming(self._payload(request.parts), request)

    async def agenerate(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> str:
        """:meth:`generate` off the event loop, in the same few threads."""
        request = check_request(parts, max_new_tokens, stop)
        payload = self._payload(request.parts)
        return await asyncio.wrap_future(self._pool.submit(self._call, payload, request))
