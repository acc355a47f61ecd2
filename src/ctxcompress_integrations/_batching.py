"""One worker thread in front of a model: whatever waits when it becomes free travels in one batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class MicroBatcher(Generic[Request, Result]):
    """Bounded asynchrony: many callers wait, one batch runs.

    Args:
        run: computes a batch; same length and order.
        max_batch: requests that one batch may hold.
    """

    def __init__(self, run: Callable[[Sequence[Request]], list[Result]], max_batch: int) -> None:
        self._run, self._max_batch = run, max_batch
        self._waiting: deque[tuple[Request, Future[Result]]] = deque()
        self._worker: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def submit(self, request: Request) -> Future[Result]:
        """Queue one request; a future that is cancelled before its batch starts costs nothing."""
        future: Future[Result] = Future()
        with self._lock:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="ctxcompress")
            self._waiting.append((request, future))
        self._worker.submit(self._drain)
        return future

    def _drain(self) -> None:
        batch: list[tuple[Request, Future[Result]]] = []
        while len(batch) < self._max_batch:
            try:
                request, future = self._waiting.popleft()
            except IndexError:
                break
            if future.set_running_or_notify_cancel():
                batch.append((request, future))
        if batch:
            self._answer(batch)

    def _answer(self, batch: Sequence[tuple[Request, Future[Result]]]) -> None:
        """One bad request must not take its neighbours down: after an error each is tried alone."""
        try:
            results = self._run([request for request, _ in batch])
            finished = list(zip(batch, results, strict=True))
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who would wait for ever without it
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for each in batch:
                    self._answer([each])
        else:
            for (_, future), result in finished:
                future.set_result(result)
