"""Dynamic batching without a timer: a free worker takes what has queued, up to the maximum; nothing waits for company.

Bounded (`max_queue_size`), deadline-aware (expired pictures never reach the network) and cancellation-safe: a caller
who leaves costs neighbours nothing, a batch that fails is halved until the one bad picture stands alone, and every
job that was taken is answered, whatever happens.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine import NetworkOutput, PictureOutput
from service.errors import DeadlineExceededError, InferenceFailedError, OverloadedError
from service.log import log

Infer = Callable[[NDArray[np.uint8]], NetworkOutput]

_SUM_TOLERANCE = 1e-3


class BatchObserver(Protocol):
    """What the batcher reports while it works; the metrics implement it."""

    def queue_changed(self, length: int) -> None:
        """`length` pictures wait."""

    def batch_started(self, size: int) -> None:
        """A batch of `size` pictures goes to the network."""

    def batch_failed(self) -> None:
        """The network raised for a batch."""


@dataclass(frozen=True)
class BatchAnswer:
    """What the network says of one picture, and how long it waited and was computed."""

    output: PictureOutput
    queue_seconds: float
    inference_seconds: float


@dataclass(eq=False)
class _Job:
    image: NDArray[np.uint8]
    deadline: float
    enqueued_at: float
    answer: asyncio.Future[BatchAnswer]
    queue_seconds: float = 0.0


class Batcher:
    """Feeds `infer` from one event loop; up to `workers` batches run at once in `executor`."""

    def __init__(
        self,
        infer: Infer,
        executor: Executor,
        observer: BatchObserver,
        *,
        workers: int,
        max_batch_size: int,
        max_queue_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infer, self._executor, self._observer, self._clock = infer, executor, observer, clock
        self._max_batch_size, self._max_queue_size = max_batch_size, max_queue_size
        self._free_workers = workers
        self._queue: deque[_Job] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, image: NDArray[np.uint8], deadline: float) -> BatchAnswer:
        """Queue one uint8 [H, W, 3] picture and wait. `deadline` is in the clock's time.

        Raises OverloadedError (queue full), DeadlineExceededError, InferenceFailedError.
        """
        if len(self._queue) >= self._max_queue_size:
            raise OverloadedError("too many pictures are waiting", retry_after_seconds=1)
        job = _Job(image, deadline, self._clock(), asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self._dispatch()
        return await job.answer

    async def drain(self) -> None:
        """Wait until nothing is queued or running."""
        while self._running:
            await asyncio.wait(self._running)

    def _dispatch(self) -> None:
        """Give queued pictures to free workers, shared evenly among them."""
        while self._free_workers and self._queue:
            batch = self._take(min(self._max_batch_size, math.ceil(len(self._queue) / self._free_workers)))
            if not batch:
                continue
            self._free_workers -= 1
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)
        self._observer.queue_changed(len(self._queue))

    def _take(self, size: int) -> list[_Job]:
        """The next `size` pictures that somebody still waits for in time; the others leave the queue."""
        now = self._clock()
        batch: list[_Job] = []
        while self._queue and len(batch) < size:
            job = self._queue.popleft()
            if job.answer.done():
                continue  # the caller left
            if now >= job.deadline:
                job.answer.set_exception(DeadlineExceededError("the picture waited too long for the network"))
                continue
            job.queue_seconds = now - job.enqueued_at
            batch.append(job)
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free_workers += 1
        self._dispatch()

    async def _run(self, batch: list[_Job]) -> None:
        """Compute a batch and answer each of its jobs exactly once."""
        try:
            await self._compute(batch)
        finally:
            for job in batch:
                if not job.answer.done():  # only if this task itself was cancelled or is wrong
                    job.answer.set_exception(InferenceFailedError("the analysis was interrupted"))

    async def _compute(self, batch: list[_Job]) -> None:
        self._observer.batch_started(len(batch))
        started = self._clock()
        try:
            images = np.stack([job.image for job in batch])
            output = await asyncio.get_running_loop().run_in_executor(self._executor, self._infer, images)
            rows = output.rows()
            if len(rows) != len(batch):
                raise ValueError(f"{len(rows)} answers to {len(batch)} pictures")
        except Exception as error:  # whatever the runtime raises, each caller gets an answer
            log(logging.ERROR, "batch failed", exc_info=error, size=len(batch))
            self._observer.batch_failed()
            await self._retry_halves(batch)
            return
        seconds = self._clock() - started
        for job, row in zip(batch, rows, strict=True):
            self._answer(job, row, seconds)

    async def _retry_halves(self, batch: list[_Job]) -> None:
        """One bad picture must not fail its neighbours: halve until it stands alone."""
        if len(batch) == 1:
            if not batch[0].answer.done():
                batch[0].answer.set_exception(InferenceFailedError("the network failed on this picture"))
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            await self._compute(half)

    def _answer(self, job: _Job, output: PictureOutput, seconds: float) -> None:
        if job.answer.done():
            return  # the caller left while the batch ran
        if _is_valid(output):
            job.answer.set_result(BatchAnswer(output, job.queue_seconds, seconds))
        else:
            job.answer.set_exception(InferenceFailedError("the network gave no valid answer"))


def _is_valid(output: PictureOutput) -> bool:
    """Probabilities that are some, a score in [0, 1], finite maps. Any comparison with NaN is false."""
    probabilities = output.probabilities
    return bool(
        (probabilities >= 0).all()
        and abs(float(probabilities.sum()) - 1) <= _SUM_TOLERANCE
        and 0 <= output.in_distribution <= 1
        and np.isfinite(output.class_maps).all()
    )
