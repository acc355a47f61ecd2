"""Any text-only chat model as a reader: where vectors would travel, the passage's text does."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.readers.base import Part, Request
from ctxcompress_integrations.readers.pooled import PooledReader
from ctxcompress_integrations.text.budget import as_counter
from ctxcompress_integrations.text.parts import split_parts
from ctxcompress_integrations.text.stops import cut_at, cut_stream

Texts: TypeAlias = Mapping[str, str] | Callable[[str], str | None]


class TextReader(PooledReader):
    """A function from prompt to answer as a reader; the length of the answer is its own affair.

    Args:
        ask: prompt -> answer; called from several threads.
        texts: passage id -> text that stands in for its vectors, pruned or full; a mapping, or a function that
            returns None where it knows none. The first time it is needed, one warning says so.
        stream: prompt -> pieces of the answer; None when ``ask`` is all there is, and a stream is one piece.
        count_tokens: the model's tokenizer or a function ``str -> int``, for budgets.
        max_concurrency: calls of ``ask`` that may be under way at one time.
    """

    def __init__(
        self,
        ask: Callable[[str], str],
        *,
        texts: Texts | None = None,
        stream: Callable[[str], Iterable[str]] | None = None,
        count_tokens: Any = None,
        max_concurrency: int = 8,
    ) -> None:
        super().__init__(max_concurrency=max_concurrency)
        self._ask, self._pieces = ask, stream
        self._text_of: Callable[[str], str | None] = (
            texts.get if isinstance(texts, Mapping) else texts or (lambda _: None)
        )
        self._count = None if count_tokens is None else as_counter(count_tokens)
        self.counts_tokens = self._count is not None
        self._has_warned = False
        self._warning = threading.Lock()

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``.

        Raises:
            ValueError: the reader was built without a counter.
        """
        if self._count is None:
            raise ValueError("this TextReader cannot count tokens: build it with count_tokens=, its model's tokenizer")
        return self._count(text)

    def _payload(self, parts: tuple[Part, ...]) -> str:
        """The prompt as text.

        Raises:
            SummaryMismatchError: no text is known for a passage that came as vectors.
        """
        texts, summaries = split_parts(parts)
        known = [self._text_of(summary.id) for summary in summaries]
        for summary, text in zip(summaries, known, strict=True):
            if text is None:
                raise SummaryMismatchError(
                    f"this reader reads text only, and no text is known for the passage {summary.id!r}; give it in "
                    "texts="
                )
        if summaries:
            self._warn()
        return "".join(between + (text or "") for between, text in zip(texts, [*known, ""], strict=True))

    def _call(self, payload: str, request: Request) -> str:
        return cut_at(self._ask(payload), request.stop)[0]

    def _call_streaming(self, payload: str, request: Request) -> Iterator[str]:
        pieces = self._pieces(payload) if self._pieces else map(self._ask, [payload])
        return cut_stream(pieces, request.stop)

    def _warn(self) -> None:
        with self._warning:
            if self._has_warned:
                return
            self._has_warned = True
        warnings.warn(
            "this reader reads text only: passages travel as text instead of summary vectors, at the price of text",
            UserWarning,
            stacklevel=5,
        )
