"""TextCompressor = scorer + selection: passages and a query in, what the question needs out.

This floor knows no host framework, no index and no reader; it never changes what it is given.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, Unpack

import numpy as np

from ctxcompress_integrations._batching import MicroBatcher
from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.options import (
    CompressionOptions,
    OptionArguments,
    Passages,
    Threshold,
    Unit,
    as_passages,
)
from ctxcompress_integrations.pruning import Request, budget_of, pruned, untouched
from ctxcompress_integrations.records import CompressionResult, Relevance
from ctxcompress_integrations.scorers.base import Scorer, ScoreRequest
from ctxcompress_integrations.text.budget import Meter, TokenCounter, as_counter

MAX_CACHED_CHARS = 200_000
"""Requests longer than this are scored again each time: their scores would take tens of megabytes."""
_CacheKey: TypeAlias = tuple[str, tuple[str, ...], tuple[str, ...]]


class TextCompressor:
    """Prune passages to what a query needs, under one budget.

    Args:
        scorer: what says how relevant each token is.
        cache_size: requests whose scores are remembered, so that another budget costs no forward.
        max_batch: requests that :meth:`acompress` may join into one batch.
        options: defaults for every option of :meth:`compress`.

    Raises:
        ValueError: for a default that no request could use.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        cache_size: int = 64,
        max_batch: int = 32,
        **options: Unpack[OptionArguments],
    ) -> None:
        if cache_size < 0:
            raise ValueError(f"cache_size must be >= 0, got {cache_size!r}")
        if max_batch < 1:
            raise ValueError(f"max_batch must be >= 1, got {max_batch!r}")
        self.scorer = scorer
        self.options = CompressionOptions().updated(options)
        count_tokens = options.get("count_tokens")
        self._count_tokens: TokenCounter = scorer.count_tokens if count_tokens is None else as_counter(count_tokens)
        self._counts: dict[str, int] = {}
        self._cache: OrderedDict[_CacheKey, list[Relevance]] = OrderedDict()
        self._cache_size = cache_size
        self._cache_lock = threading.Lock()
        self._batcher = MicroBatcher(self._run, max_batch)

    def compress(
        self,
        passages: Passages,
        query: str,
        *,
        keep_ratio: float | None = None,
        token_budget: int | None = None,
        threshold: Threshold | None = None,
        unit: Unit | None = None,
        protect: str | Sequence[str] | None = None,
        joiner: str | None = None,
        sigma: float | None = None,
        count_tokens: Any = None,
    ) -> CompressionResult:
        """Compress one request.

        Args:
            passages: :class:`Passage` objects, or strings that get the ids "0", "1", ...
            query: the question, in any language.
            keep_ratio: target of kept tokens / input tokens over the whole request, in (0, 1]; only the first unit
                may exceed it. Exactly one of ``keep_ratio``, ``token_budget`` and ``threshold``; a limit given here
                replaces the one given at construction.
            token_budget: tokens of the output, never exceeded.
            threshold: keep every unit whose score reaches it; may keep nothing. "auto" is the scorer's calibrated one,
                under which 1 % of the answers were lost where it was calibrated; -inf scores and keeps all.
            unit: "sentence", "phrase" (single words) or "dynamic" (sentences, and a window in the first that no longer
                fits).
            protect: "numbers", "dates", "urls", "code" or regular expressions: their matches are kept first.
            joiner: what stands for a removed gap; None for one space where the original had white space.
            sigma: Gaussian smoothing over words; None for what the scorer's paper says.
            count_tokens: the reader's tokenizer or a function ``str -> int``; the scorer's own tokenizer when None.

        Raises:
            ValueError: blank query, two limits or none, a limit out of range, duplicate ids, text that is no ``str``,
                "auto" for a scorer without a calibrated threshold.
        """
        options: OptionArguments = {
            "keep_ratio": keep_ratio,
            "token_budget": token_budget,
            "threshold": threshold,
            "unit": unit,
            "protect": protect,
            "joiner": joiner,
            "sigma": sigma,
            "count_tokens": count_tokens,
        }
        return self._run([self._request(passages, query, options)])[0]

    def compress_many(
        self,
        requests: Iterable[tuple[Passages, str]],
        **options: Unpack[OptionArguments],
    ) -> list[CompressionResult]:
        """Compress ``(passages, query)`` requests, scored together in one batch; options as in :meth:`compress`."""
        return self._run([self._request(passages, query, options) for passages, query in requests])

    async def acompress(
        self,
        passages: Passages,
        query: str,
        **options: Unpack[OptionArguments],
    ) -> CompressionResult:
        """:meth:`compress` off the event loop: requests that wait at the same time travel in one batch, one forward
        runs at a time, and a cancelled request is dropped before it costs anything.
        """
        return await asyncio.wrap_future(self._batcher.submit(self._request(passages, query, options)))

    def with_options(self, options: CompressionOptions) -> TextCompressor:
        """The same compressor with other defaults: scorer, counter, remembered scores and batches are shared."""
        other = copy.copy(self)
        other.options = options
        return other

    def _request(self, passages: Passages, query: str, given: OptionArguments) -> Request:
        options = self.options.updated(given)
        count_tokens = given.get("count_tokens")
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"the query must be a string that is not blank, got {query!r}")
        options.require_limit()
        if options.threshold == "auto":
            options = replace(options, threshold=self.scorer.default_threshold)
        counter = self._count_tokens if count_tokens is None else as_counter(count_tokens)
        return Request(as_passages(passages), query, options, counter)

    def _run(self, requests: Sequence[Request]) -> list[CompressionResult]:
        started = time.perf_counter()
        meters = [self._meter(request.counter) for request in requests]
        budgets = [budget_of(r, meter) for r, meter in zip(requests, meters, strict=True)]
        pending = [i for i, (n_tokens, budget) in enumerate(budgets) if budget is None or n_tokens > budget]
        scored, cached = self._scores([requests[i] for i in pending])
        shared = (time.perf_counter() - started) / max(1, len(requests))
        found = dict(zip(pending, zip(scored, cached, strict=True), strict=True))
        results = []
        for i, (request, meter) in enumerate(zip(requests, meters, strict=True)):
            begun = time.perf_counter()
            relevances, is_cached = found.get(i, (None, False))
            passages = untouched(request.passages)
            if relevances is not None:
                passages = pruned(request, relevances, meter, budgets[i][1], sigma=self.scorer.sigma)
            n_in = meter.joined([p.text for p in request.passages])
            n_out = meter.joined([p.text for p in passages])
            if n_out > n_in and request.options.token_budget is None:  # a tokenizer for which less text is more tokens
                passages, n_out = untouched(request.passages), n_in
            seconds = shared + time.perf_counter() - begun
            results.append(CompressionResult(request.query, passages, n_in, n_out, seconds, is_cached))
        return results

    def remembers(self, texts: Sequence[str]) -> bool:
        """Whether the scores of a request for these texts are kept for the next one."""
        return self._cache_size > 0 and sum(map(len, texts)) <= MAX_CACHED_CHARS

    def _meter(self, counter: TokenCounter) -> Meter:
        return Meter(counter, self._counts if counter is self._count_tokens else None)

    def _scores(self, requests: Sequence[Request]) -> tuple[list[list[Relevance]], list[bool]]:
        """Relevances of each request, and whether they were at hand already."""
        keys: list[_CacheKey] = [
            (r.query, tuple(p.text for p in r.passages), tuple(p.title for p in r.passages)) for r in requests
        ]
        with self._cache_lock:
            known = {key: self._cache[key] for key in keys if key in self._cache}
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        wanted = [ScoreRequest(texts, query, titles) for query, texts, titles in missing]
        computed = self.scorer.score(wanted) if wanted else []
        fresh = dict(zip(missing, computed, strict=True))
        for relevance in (each for of_request in computed for each in of_request):
            if not (np.isfinite(relevance.scores).all() and np.isfinite(relevance.rows).all()):
                raise UnsupportedModelError(
                    f"the scorer {self.scorer.name!r} gave scores that are not finite: load its model in float32"
                )
        with self._cache_lock:
            for key in keys:
                if self.remembers(key[1]):
                    self._cache[key] = known.get(key) or fresh[key]
                    self._cache.move_to_end(key)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return [known.get(key) or fresh[key] for key in keys], [key in known for key in keys]
