"""The whole road without a host framework: a question in, compressed passages (and an answer) out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Unpack

from ctxcompress_integrations.options import OptionArguments
from ctxcompress_integrations.records import CompressionResult, Passage

if TYPE_CHECKING:
    from ctxcompress_integrations.compressor import TextCompressor
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.index.reading import Where

MAX_READERS = 8
"""Answers that :meth:`Pipeline.aask` may be waiting for at one time."""
PROMPT = "Answer from these passages only and cite them as [1], [2] ...\n\n{context}\n\nQuestion: {question}\nAnswer:"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question.

    Attributes:
        query: the question.
        retrieved: passages as the index holds them, with similarities, best first.
        result: the same passages, compressed.
        seconds_retrieve, seconds_compress: wall-clock time of the two steps.
        text: the reader's answer; None without a reader.
    """

    query: str
    retrieved: list[Passage]
    result: CompressionResult
    seconds_retrieve: float
    seconds_compress: float
    text: str | None = None

    @property
    def prompt(self) -> str:
        """A prompt with what was kept, numbered for citations; numbers are positions in ``retrieved``."""
        kept = [
            f"[{number}] {passage.title}{': ' if passage.title else ''}{passage.text}"
            for number, passage in enumerate(self.result.passages, start=1)
            if not passage.is_empty
        ]
        return PROMPT.format(context="\n\n".join(kept), question=self.query)


class Pipeline:
    """Retrieve, compress and, with a reader, answer.

    Args:
        index: what is searched.
        compressor: what prunes.
        k: passages retrieved per question.
        reader: a function from prompt to answer; None to stop at the compressed passages.
    """

    def __init__(
        self,
        index: CompressedIndex,
        compressor: TextCompressor,
        *,
        k: int = 8,
        reader: Callable[[str], str] | None = None,
    ) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be an int >= 1, got {k!r}")
        self.index, self.compressor, self.k, self.reader = index, compressor, k, reader
        self._retrieving = ThreadPoolExecutor(1, thread_name_prefix="ctxcompress-retrieve")
        self._reading = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="ctxcompress-read")

    def ask(
        self, query: str, *, k: int | None = None, where: Where | None = None, **options: Unpack[OptionArguments]
    ) -> Answer:
        """Answer one question; ``where`` filters by metadata, ``options`` are those of ``TextCompressor.compress``."""
        return self.ask_many([query], k=k, where=where, **options)[0]

    def ask_many(
        self,
        queries: Sequence[str],
        *,
        k: int | None = None,
        where: Where | None = None,
        **options: Unpack[OptionArguments],
    ) -> list[Answer]:
        """Answer questions together: one batch of query vectors, one batch of compressions."""
        self.compressor.options.updated(options).require_limit()  # complains before the retrieval
        started = time.perf_counter()
        found = self.index.search_many(queries, self.k if k is None else k, where)
        seconds = (time.perf_counter() - started) / max(1, len(queries))
        results = self.compressor.compress_many(zip(found, queries, strict=True), **options)
        return [
            self._answer(query, passages, result, seconds)
            for query, passages, result in zip(queries, found, results, strict=True)
        ]

    async def aask(
        self, query: str, *, k: int | None = None, where: Where | None = None, **options: Unpack[OptionArguments]
    ) -> Answer:
        """:meth:`ask` off the event loop: one retrieval at a time, compressions in shared batches, answers side by side
        (a reader must bear being called from several threads).
        """
        self.compressor.options.updated(options).require_limit()
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        search = partial(self.index.search, query, self.k if k is None else k, where)
        found = await loop.run_in_executor(self._retrieving, search)
        seconds = time.perf_counter() - started
        result = await self.compressor.acompress(found, query, **options)
        return await loop.run_in_executor(self._reading, self._answer, query, found, result, seconds)

    def _answer(self, query: str, found: list[Passage], result: CompressionResult, seconds: float) -> Answer:
        answer = Answer(query, found, result, seconds, result.seconds)
        if self.reader is None:
            return answer
        return Answer(query, found, result, seconds, result.seconds, self.reader(answer.prompt))
