"""What every reader offers: one user turn, in parts of text and of summary vectors, becomes an answer.

Vectors travel as typed parts, never as magic text, so no document can smuggle one in.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ctxcompress_integrations._batching import MicroBatcher
from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.text.parts import Part, count_positions, split_parts
from ctxcompress_integrations.text.stops import check_stop

__all__ = ["Part", "Reader", "Request", "check_request", "check_summaries"]


class Request(NamedTuple):
    """One user turn and how its answer ends."""

    parts: tuple[Part, ...]
    max_new_tokens: int
    stop: tuple[str, ...]


class Reader(ABC):
    """One user turn in, the answer out.

    Args:
        max_batch: requests that :meth:`agenerate` may join into one batch.

    Attributes:
        reads_vectors: whether parts may be :class:`SummaryVectors` and are read as such.
        counts_tokens: whether :meth:`count_tokens` is known.
        device: the torch device that vectors are best brought to; None for arrays.
    """

    reads_vectors: bool = False
    counts_tokens: bool = True
    device: Any = None

    def __init__(self, *, max_batch: int = 8) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be >= 1, got {max_batch!r}")
        self._batcher: MicroBatcher[Request, str] = MicroBatcher(self._run, max_batch)

    @property
    def identity(self) -> str | None:
        """Digest of the weights, which ``SummaryVectors.reader`` must equal; None when it is not known."""
        return None

    @abstractmethod
    def generate_many(
        self, prompts: Sequence[Sequence[Part]], *, max_new_tokens: int = 128, stop: Sequence[str] = ()
    ) -> list[str]:
        """Answers, greedy, in order; an answer does not depend on what travels beside it. A stop text is left out.

        Raises:
            ValueError: nothing to read, a wrong limit, a prompt that leaves the answer no room.
            SummaryMismatchError: vectors made for another reader or adapter, or adapters mixed in one prompt.
            SummaryValueError: vectors that are not finite. All this before anything is generated.
        """

    @abstractmethod
    def stream(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> Iterator[str]:
        """Pieces of the answer as they come; joined they are what :meth:`generate` gives. Wrong arguments are an error
        at once; whoever stops reading ends the generation.
        """

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` in the reader's vocabulary, without special tokens."""

    def generate(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> str:
        """The answer to one user turn; errors as for :meth:`generate_many`."""
        return self.generate_many([parts], max_new_tokens=max_new_tokens, stop=stop)[0]

    async def agenerate(self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()) -> str:
        """:meth:`generate` off the event loop: requests that wait at the same time travel in one batch, and one that is
        cancelled before its batch starts costs nothing.
        """
        request = check_request(parts, max_new_tokens, stop)
        return await asyncio.wrap_future(self._batcher.submit(request))

    async def astream(
        self, parts: Sequence[Part], *, max_new_tokens: int = 128, stop: Sequence[str] = ()
    ) -> AsyncGenerator[str, None]:
        """:meth:`stream` off the event loop."""
        pieces = await asyncio.to_thread(self.stream, parts, max_new_tokens=max_new_tokens, stop=stop)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    def positions(self, parts: Sequence[Part]) -> int:
        """Reader positions of the parts: tokens of texts (neighbouring ones are one text), vectors of summaries."""
        return count_positions(parts, self.count_tokens)

    def room(self, parts: Sequence[Part], *, max_new_tokens: int = 128) -> int | None:
        """Positions that are left beside these parts and the answer; None where it is not known how much is read."""
        return None

    def _run(self, requests: Sequence[Request]) -> list[str]:
        """Answers to requests that travel together, one batch for all that end the same way."""
        answers: dict[int, str] = {}
        for max_new_tokens, stop in dict.fromkeys(request[1:] for request in requests):
            mine = [i for i, request in enumerate(requests) if request[1:] == (max_new_tokens, stop)]
            texts = self.generate_many([requests[i].parts for i in mine], max_new_tokens=max_new_tokens, stop=stop)
            answers.update(zip(mine, texts, strict=True))
        return [answers[i] for i in range(len(requests))]


def check_request(parts: Sequence[Part], max_new_tokens: int, stop: Sequence[str]) -> Request:
    """The arguments as a :class:`Request`; ``ValueError`` for parts, a limit or a stop text that cannot be meant."""
    split_parts(parts)
    return Request(tuple(parts), whole("max_new_tokens", max_new_tokens), check_stop(stop))


def check_summaries(
    summaries: Sequence[SummaryVectors], *, identity: str | None, width: int | None, adapters: Mapping[str, str | None]
) -> str | None:
    """The adapter that the summaries of one prompt are to be read with.

    Args:
        identity: digest of the reader's weights; None when it is not known.
        width: of the reader; None when it is not known.
        adapters: names that the reader has, with the digests of their weights, None where one is not known.

    Raises:
        SummaryMismatchError: naming the passage and the cure.
    """
    for summary in summaries:
        where = f"the vectors of the passage {summary.id!r}"
        if identity is None:
            raise SummaryMismatchError(
                f"{where} are made for the reader {summary.reader[:12]}..., the weights of this one are not known; say "
                "which they are with identity="
            )
        if summary.reader != identity:
            raise SummaryMismatchError(
                f"{where} are made for the reader {summary.reader[:12]}..., this one is {identity[:12]}...; load the "
                "reader that they are made for, or summarize the passages again for this one"
            )
        if width not in (None, summary.width):
            raise SummaryMismatchError(
                f"{where} are {summary.width} wide, this reader's embeddings {width}; summarize them again for it"
            )
        if summary.adapter is not None and summary.adapter not in adapters:
            known = ", ".join(sorted(adapters)) or "none"
            raise SummaryMismatchError(
                f"{where} are to be read with the adapter {summary.adapter!r}, which this reader does not have (it "
                f"has: {known}); load it with adapters={{{summary.adapter!r}: FOLDER}}"
            )
        have = None if summary.adapter is None else adapters[summary.adapter]
        if None not in (have, summary.adapter_digest) and have != summary.adapter_digest:
            raise SummaryMismatchError(
                f"{where} are to be read with the adapter {summary.adapter!r} of the weights "
                f"{str(summary.adapter_digest)[:12]}..., this reader has {str(have)[:12]}... under that name; load "
                "that one, or index.set_adapter() again"
            )
    wanted = list(dict.fromkeys(summary.adapter for summary in summaries))
    if len(wanted) > 1:
        raise SummaryMismatchError(
            f"one prompt holds vectors for the adapters {wanted[0]!r} and {wanted[1]!r}, a reader reads with one at a "
            "time; ask about each corpus apart"
        )
    return wanted[0] if wanted else None
