"""The whole road without a host framework: a question in, compressed passages (and an answer) out."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.allocation import Allocation, Allowed, allocate, check_form, label
from ctxcompress_integrations.lookup import vectors_for
from ctxcompress_integrations.options import OptionArguments
from ctxcompress_integrations.readers.base import Reader
from ctxcompress_integrations.records import PASSAGE_SEPARATOR, CompressionResult, Passage, SummaryVectors
from ctxcompress_integrations.room import pruned_within
from ctxcompress_integrations.text.parts import Part

if TYPE_CHECKING:
    from ctxcompress_integrations.compressor import TextCompressor
    from ctxcompress_integrations.index.building import Summarizes
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.index.reading import Where

MAX_READERS = 8
"""Answers that :meth:`Pipeline.aask` may be waiting for at one time."""
PROMPT = "Answer from these passages only and cite them as [1], [2] ...\n\n{context}\n\nQuestion: {question}\nAnswer:"


def around(parts: Sequence[Part], question: str, prompt: str = PROMPT) -> tuple[Part, ...]:
    """A whole prompt: passages in their parts where ``{context}`` stands, and the question where ``{question}`` does.

    Raises:
        ValueError: a prompt without the two, in this order.
    """
    before, found, after = prompt.partition("{context}")
    if not found or "{question}" not in after:
        raise ValueError(f"a prompt needs {{context}} and, after it, {{question}}; got {prompt!r}")
    return (before, *parts, after.replace("{question}", question))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question.

    Attributes:
        query: the question.
        retrieved: passages as the index holds them, with similarities, best first.
        result: the same passages, compressed.
        seconds_retrieve, seconds_compress: wall-clock time of the two steps.
        text: the reader's answer; None without a reader.
        allocation: in which form each passage travelled and the positions spent; None without a reader's budget, when
            all that was kept travels as text.
    """

    query: str
    retrieved: list[Passage]
    result: CompressionResult
    seconds_retrieve: float
    seconds_compress: float
    text: str | None = None
    allocation: Allocation | None = None

    @property
    def prompt(self) -> str:
        """A prompt with what was kept, numbered for citations; numbers are positions in ``retrieved``."""
        kept = [
            label(number, passage.title) + passage.text
            for number, passage in enumerate(self.result.passages, start=1)
            if not passage.is_empty
        ]
        return "".join(map(str, around([PASSAGE_SEPARATOR.join(kept)], self.query)))

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a reader gets: :attr:`prompt`, or the same around the passages as they were allocated."""
        return (self.prompt,) if self.allocation is None else around(self.allocation.parts, self.query)


class Pipeline:
    """Retrieve, compress and, with a reader, answer.

    Args:
        index: what is searched.
        compressor: what prunes.
        k: passages retrieved per question.
        reader: what answers: a :class:`Reader`, or a function from prompt to answer; None to stop at the compressed
            passages.
        reader_budget: reader positions for the passages of one question, spent on them as
            :func:`~ctxcompress_integrations.allocation.allocate` does; None to send what the compressor kept. Without
            another limit the passages are pruned to what labels and vectors leave of it.
        fingerprint: of the summarizer whose vectors the index holds and the reader reads; None for text alone. A
            passage that has none yet, and a reader of text alone (after one warning), gets text.
        on_miss: summarizer for passages that have no vectors yet, IC-Former for instance; made for the same reader.
        form: "mixed", or "text" or "vectors" for one of them alone.
        max_new_tokens: longest answer of a :class:`Reader`.

    Raises:
        ValueError: ``k`` below 1, a budget without a :class:`Reader` that counts, vectors without a budget.
    """

    def __init__(
        self,
        index: CompressedIndex,
        compressor: TextCompressor,
        *,
        k: int = 8,
        reader: Reader | Callable[[str], str] | None = None,
        reader_budget: int | None = None,
        fingerprint: str | None = None,
        on_miss: Summarizes | None = None,
        form: Allowed = "mixed",
        max_new_tokens: int = 128,
    ) -> None:
        check_form(form)
        if reader_budget is not None:
            reader_budget = whole("reader_budget", reader_budget)
            if not (isinstance(reader, Reader) and reader.counts_tokens):
                raise ValueError(
                    f"reader_budget={reader_budget!r} needs a Reader that counts positions; got {reader!r}"
                )
        if (fingerprint, on_miss) != (None, None) and reader_budget is None:
            raise ValueError(
                "vectors are sent under a budget alone: give reader_budget= beside fingerprint= and on_miss="
            )
        if (fingerprint, on_miss) != (None, None) and isinstance(reader, Reader) and not reader.reads_vectors:
            message = f"{type(reader).__name__} reads text only: passages travel as text, their summaries stay unread"
            warnings.warn(message, UserWarning, stacklevel=2)
            fingerprint = on_miss = None
        self.index, self.compressor, self.k, self.reader = index, compressor, whole("k", k), reader
        self.reader_budget, self.fingerprint, self.form = reader_budget, fingerprint, form
        self.on_miss, self.max_new_tokens = on_miss, whole("max_new_tokens", max_new_tokens)
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
        limited, is_open = self._limited(options)  # complains before the retrieval
        started = time.perf_counter()
        found = self.index.search_many(queries, self.k if k is None else k, where)
        seconds = (time.perf_counter() - started) / max(1, len(queries))
        results = self.compressor.compress_many(zip(found, queries, strict=True), **limited)
        compressed = [
            self._prepare(query, passages, result, seconds, options if is_open else None)
            for query, passages, result in zip(queries, found, results, strict=True)
        ]
        return self._read(compressed)

    async def aask(
        self, query: str, *, k: int | None = None, where: Where | None = None, **options: Unpack[OptionArguments]
    ) -> Answer:
        """:meth:`ask` off the event loop: one retrieval at a time, compressions in shared batches, answers side by side
        (a reader must bear being called from several threads).
        """
        limited, is_open = self._limited(options)
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        search = partial(self.index.search, query, self.k if k is None else k, where)
        found = await loop.run_in_executor(self._retrieving, search)
        seconds = time.perf_counter() - started
        result = await self.compressor.acompress(found, query, **limited)
        pruning = options if is_open else None
        answer = await loop.run_in_executor(self._retrieving, self._prepare, query, found, result, seconds, pruning)
        if isinstance(self.reader, Reader):
            return replace(answer, text=await self.reader.agenerate(answer.parts, max_new_tokens=self.max_new_tokens))
        return (await loop.run_in_executor(self._reading, self._read, [answer]))[0]

    def _limited(self, options: OptionArguments) -> tuple[OptionArguments, bool]:
        """Options with a limit, and whether the reader's budget has to set it: then everything is scored, at first."""
        chosen = self.compressor.options.updated(options)
        if self.reader_budget is None or chosen.has_limit:
            chosen.require_limit()
            return options, False
        return {**options, "threshold": float("-inf")}, True

    def _prepare(
        self,
        query: str,
        found: list[Passage],
        result: CompressionResult,
        seconds: float,
        pruning: OptionArguments | None,
    ) -> Answer:
        """The answer but for its text; ``pruning`` with these options for what the reader's budget leaves."""
        answer = Answer(query, found, result, seconds, result.seconds)
        if self.reader_budget is None or not isinstance(self.reader, Reader):
            return answer
        vectors: dict[str, SummaryVectors] = {}
        if self.form != "text":
            device = self.reader.device
            vectors = vectors_for(found, self.index, self.fingerprint, device=device, on_miss=self.on_miss)
        count_tokens = self.reader.count_tokens
        if pruning is not None:

            def compress(room: int) -> CompressionResult:
                limited: OptionArguments = {**pruning, "count_tokens": count_tokens, "token_budget": room}
                return self.compressor.compress_many([(found, query)], **limited)[0]

            started = time.perf_counter()
            result = pruned_within(self.reader_budget, compress, found, vectors, count_tokens)
            answer = replace(answer, seconds_compress=answer.seconds_compress + time.perf_counter() - started)
        allocation = allocate(result, vectors, budget=self.reader_budget, count_tokens=count_tokens, form=self.form)
        return replace(answer, result=result, allocation=allocation)

    def _read(self, compressed: Sequence[Answer]) -> list[Answer]:
        if self.reader is None:
            return list(compressed)
        if isinstance(self.reader, Reader):
            prompts = [answer.parts for answer in compressed]
            texts = self.reader.generate_many(prompts, max_new_tokens=self.max_new_tokens)
        else:
            texts = [self.reader(answer.prompt) for answer in compressed]
        return [replace(answer, text=text) for answer, text in zip(compressed, texts, strict=True)]
