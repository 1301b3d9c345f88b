"""Dynamic batching without a timer: a free worker takes what waits, earliest deadline first; nothing waits for company.

It knows nothing of pictures: items go in, `work` answers a batch of them in a worker thread, each caller gets the
outcome of its own item. It is bounded (`queue_limit`), deadline-aware and cancellation-safe: what expired or was
abandoned is dropped before any work is spent on it, a caller who leaves costs its neighbours nothing, a batch that
fails is halved until the one bad item stands alone, and whatever was accepted is answered exactly once.

All state lives in one event loop, and no task carries a batch: there is nothing that could be cancelled half-way.
`tests/simulation` drives this module through random schedules in virtual time.
"""

import asyncio
import bisect
import itertools
import logging
import math
import operator
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar

from service.errors import DeadlineExceededError, InferenceFailedError, OverloadedError, ServiceError
from service.log import log

Item = TypeVar("Item")
Result = TypeVar("Result")
# Runs in a worker thread. One outcome per item, in the same order; an exception is that item's own failure.
Work = Callable[[Sequence[Item]], Sequence[Result | Exception]]
DropReason = Literal["expired", "departed"]

_URGENCY = operator.attrgetter("urgency")


class BatchObserver(Protocol):
    """What the batcher reports while it works; the metrics implement it. Its methods must not raise."""

    def queue_changed(self, length: int) -> None:
        """`length` items wait."""

    def batch_ran(self, size: int) -> None:
        """A worker computed `size` items together."""

    def batch_failed(self) -> None:
        """A whole batch failed; its halves are tried next."""

    def dropped(self, reason: DropReason) -> None:
        """An accepted item was spared further work: its deadline passed, or its caller left."""

    def left_in_work(self) -> None:
        """A caller left in time whose item a worker had already: that work is lost."""


@dataclass(frozen=True)
class Answered(Generic[Result]):
    """One item's result, how long the item waited for a worker, and how many items were computed with it."""

    result: Result
    queue_seconds: float
    batch_size: int


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    item: Item
    urgency: tuple[float, int]  # deadline, then order of arrival
    arrived_at: float
    answer: asyncio.Future[Answered[Result]]
    queue_seconds: float | None = None  # None until a worker has it
    left_in_time: bool = False


# What a worker computed, and the outcome of each.
_Computed = tuple[list[_Job[Item, Result]], list[Result | Exception]]


class Batcher(Generic[Item, Result]):
    """Up to `workers` batches run in `executor` at once; `batch_limit` tells the largest batch at present.

    `executor` must have as many threads as there are `workers`. Full batches are handed to it ahead of time, up to
    `ahead` of them: a thread that gets free takes the next one without waiting for the event loop, and only there it is
    seen who still waits for it. Everything else happens in the event loop of the callers.
    """

    def __init__(
        self,
        work: Work[Item, Result],
        executor: Executor,
        observer: BatchObserver,
        *,
        workers: int,
        batch_limit: Callable[[], int],
        queue_limit: int,
        ahead: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._executor, self._observer, self._clock = work, executor, observer, clock
        self._workers, self._batch_limit, self._queue_limit = workers, batch_limit, queue_limit
        self._ahead = ahead
        # Sorted by urgency. A list, not a heap: whoever leaves is found by bisection and frees its place at once.
        self._queue: list[_Job[Item, Result]] = []
        self._arrivals = itertools.count()
        self._running = 0
        self._idle = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Batches that the workers have, those handed over ahead among them."""
        return self._running

    async def submit(self, item: Item, deadline: float) -> Answered[Result]:
        """Queue one item and wait for its answer. `deadline` is in the clock's time.

        Raises OverloadedError (queue full), DeadlineExceededError (no worker in time), InferenceFailedError (the work
        failed on this item), or the ServiceError that is the item's own outcome.
        """
        if len(self._queue) >= self._queue_limit:
            raise OverloadedError("too many requests are waiting", retry_after_seconds=1)
        answer: asyncio.Future[Answered[Result]] = asyncio.get_running_loop().create_future()
        job = _Job(item, (deadline, next(self._arrivals)), self._clock(), answer)
        bisect.insort(self._queue, job, key=_URGENCY)
        self._dispatch()
        try:
            return await answer
        except asyncio.CancelledError:
            self._leave(job)
            raise
        finally:
            del job, answer  # an exception that is raised here holds this frame, and they would hold the exception

    async def drain(self) -> None:
        """Wait until nothing is queued or running."""
        while self._running:  # while anything waits all workers are busy
            await self._idle.wait()

    def _leave(self, job: _Job[Item, Result]) -> None:
        """Free the place of a caller who left, if it has still one."""
        job.left_in_time = self._clock() < job.urgency[0]  # a caller whose own timer runs out leaves, too
        place = bisect.bisect_left(self._queue, job.urgency, key=_URGENCY)
        if place < len(self._queue) and self._queue[place] is job:
            del self._queue[place]
            self._drop(job)
            self._observer.queue_changed(len(self._queue))

    def _drop(self, job: _Job[Item, Result]) -> None:
        """Count one that was spared work."""
        self._observer.dropped("departed" if job.left_in_time else "expired")

    def _dispatch(self) -> None:
        """Give what waits to the free workers."""
        while self._queue and self._running < self._workers + self._ahead:
            limit = self._batch_limit()
            if self._running >= self._workers and len(self._queue) < limit:
                break  # no worker is free, and while it waits this batch may still grow
            # No more than a fair share of what waits: a worker that is free next must not find the queue empty.
            batch = self._take(max(1, min(limit, math.ceil(len(self._queue) / self._workers))))
            if batch:
                self._running += 1
                self._run_next([batch])
        self._observer.queue_changed(len(self._queue))
        if self._running:
            self._idle.clear()
        else:
            self._idle.set()

    def _take(self, size: int) -> list[_Job[Item, Result]]:
        """The `size` most urgent items that somebody still waits for in time; the others leave the queue."""
        now = self._clock()
        batch: list[_Job[Item, Result]] = []
        while self._queue and len(batch) < size:
            job = self._queue.pop(0)
            if self._is_wanted(job, now):
                batch.append(job)
        return batch

    def _is_wanted(self, job: _Job[Item, Result], now: float) -> bool:
        """Whether work on it still has a use; a caller whose deadline passed is told so."""
        if self._has_use(job, now):
            return True
        if not job.answer.done():
            job.answer.set_exception(DeadlineExceededError("it waited too long for a worker"))
        self._drop(job)
        return False

    def _has_use(self, job: _Job[Item, Result], now: float) -> bool:
        """The same, changing nothing: a worker may ask."""
        return now < job.urgency[0] and not job.answer.done()

    def _run_next(self, batches: list[list[_Job[Item, Result]]]) -> None:
        """Start the last of the `batches` that one worker has before it; without any the worker is free."""
        while batches:
            now = self._clock()
            batch = [job for job in batches.pop() if self._is_wanted(job, now)]
            if not batch:
                continue
            try:
                future = self._executor.submit(self._compute, batch)
            except RuntimeError as error:  # it was shut down, or the system gives no more threads
                self._fail(batch, error)
                continue
            loop = asyncio.get_running_loop()
            future.add_done_callback(partial(_call_in, loop, self._finished, batch, batches))
            return
        self._running -= 1

    def _compute(self, batch: list[_Job[Item, Result]]) -> _Computed[Item, Result]:
        """In the worker thread: those of the batch whose callers still wait, with as many outcomes."""
        now = self._clock()
        wanted = [job for job in batch if self._has_use(job, now)]
        for job in wanted:
            if job.queue_seconds is None:
                job.queue_seconds = now - job.arrived_at
        outcomes = list(self._work(tuple(job.item for job in wanted))) if wanted else []
        if len(outcomes) != len(wanted):
            raise ValueError(f"{len(outcomes)} outcomes of {len(wanted)} items")
        return wanted, outcomes

    def _finished(
        self,
        batch: list[_Job[Item, Result]],
        batches: list[list[_Job[Item, Result]]],
        future: Future[_Computed[Item, Result]],
    ) -> None:
        """Back in the event loop: answer the callers and go on."""
        # BaseException: what a library raises to end its thread must not leave the callers without an answer.
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            self._settle(batch, *future.result())
        elif len(batch) == 1:
            self._fail(batch, error)
        else:  # one bad item must not fail its neighbours: halve until it stands alone
            log(logging.ERROR, "batch failed", exc_info=error, size=len(batch))
            self._observer.batch_failed()
            middle = len(batch) // 2
            batches += [batch[middle:], batch[:middle]]
        self._run_next(batches)
        self._dispatch()

    def _settle(
        self,
        batch: list[_Job[Item, Result]],
        computed: list[_Job[Item, Result]],
        outcomes: list[Result | Exception],
    ) -> None:
        """Every job of the batch has its end, those too that the worker found unwanted."""
        if computed:
            self._observer.batch_ran(len(computed))
        self._deliver(computed, outcomes)
        now = self._clock()
        for job in batch:
            if job not in computed:
                self._is_wanted(job, now)  # it is not: its caller is told

    def _deliver(self, batch: list[_Job[Item, Result]], outcomes: list[Result | Exception]) -> None:
        """Answer each caller who is still there with its own outcome."""
        for job, outcome in zip(batch, outcomes, strict=True):
            if self._is_gone(job):
                continue
            if isinstance(outcome, ServiceError):
                job.answer.set_exception(outcome)
            elif isinstance(outcome, BaseException):
                log(logging.ERROR, "item failed", exc_info=outcome)
                job.answer.set_exception(InferenceFailedError("the analysis failed"))
            else:
                job.answer.set_result(Answered(outcome, job.queue_seconds or 0.0, len(batch)))

    def _fail(self, batch: list[_Job[Item, Result]], error: BaseException) -> None:
        """No way is left to compute these."""
        log(logging.ERROR, "batch failed", exc_info=error, size=len(batch))
        self._observer.batch_failed()
        for job in batch:
            if not self._is_gone(job):
                job.answer.set_exception(InferenceFailedError("the analysis failed"))

    def _is_gone(self, job: _Job[Item, Result]) -> bool:
        """Whether the caller left while a worker had the item; counts the lost work."""
        if job.answer.done() and job.left_in_time:
            self._observer.left_in_work()
        return job.answer.done()


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    """From a worker thread; a loop that is closed has no callers left."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)
