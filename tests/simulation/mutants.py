"""Batchers that are broken on purpose, each in one way: the simulation must find every one of them."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from service.batcher import Answered, Batcher

Jobs = list[Any]


class Unguarded(Batcher[Any, Any]):
    """Sets results in a loop: the future of a caller who left raises, and the rest of its batch waits for ever.

    Two well-known servers had this bug.
    """

    def _deliver(self, batch: Jobs, outcomes: Sequence[Any]) -> None:
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(Answered(outcome, job.queue_seconds, len(batch)))


class LastInFirstOut(Batcher[Any, Any]):
    """Takes who came last."""

    def _take(self, size: int) -> Jobs:
        self._queue.sort(key=lambda job: -job.urgency[1])
        batch = super()._take(size)
        self._queue.sort(key=lambda job: job.urgency)
        return batch


class WorksOnExpired(Batcher[Any, Any]):
    """Never looks at a deadline."""

    def _has_use(self, job: Any, now: float) -> bool:
        return not job.answer.done()


class WorksOnDeparted(Batcher[Any, Any]):
    """Keeps the place of a caller who left, and computes its item."""

    def _leave(self, job: Any) -> None: ...

    def _has_use(self, job: Any, now: float) -> bool:
        return job.answer.done() or super()._has_use(job, now)


class WorksOnDepartedAhead(Batcher[Any, Any]):
    """Looks at who is still there when a batch is handed over, not when a worker begins it."""

    def _compute(self, batch: Jobs) -> Any:
        return batch, list(self._work(tuple(job.item for job in batch)))


class SwapsResults(Batcher[Any, Any]):
    """Hands the results of a batch out in the wrong order."""

    def _deliver(self, batch: Jobs, outcomes: Sequence[Any]) -> None:
        super()._deliver(batch, list(reversed(outcomes)))


class FailsNeighbours(Batcher[Any, Any]):
    """One bad item fails its whole batch."""

    def _finished(self, batch: Jobs, batches: list[Jobs], future: "Future[Any]") -> None:
        if future.cancelled() or future.exception():
            self._fail(batch, RuntimeError("somebody in the batch is bad"))
            future = Future()
            future.set_result((batch, [None] * len(batch)))
        super()._finished(batch, batches, future)


class ComputesAgain(Batcher[Any, Any]):
    """Retries a failed batch as a whole once more, with those that succeeded meanwhile."""

    _again = False

    def _finished(self, batch: Jobs, batches: list[Jobs], future: "Future[Any]") -> None:
        failed = future.cancelled() or future.exception()
        super()._finished(batch, batches, future)
        if failed and len(batch) > 1 and not self._again:
            self._again = True
            batches.insert(0, batch)

    def _has_use(self, job: Any, now: float) -> bool:
        return (job.answer.done() and not job.answer.cancelled()) or super()._has_use(job, now)


class LosesWorkers(Batcher[Any, Any]):
    """A worker whose thread was ended never comes back."""

    def _finished(self, batch: Jobs, batches: list[Jobs], future: "Future[Any]") -> None:
        if not future.cancelled() and isinstance(future.exception(), SystemExit):
            self._fail(batch, SystemExit())
        else:
            super()._finished(batch, batches, future)


class WaitsForCompany(Batcher[Any, Any]):
    """Starts no batch of one."""

    def _dispatch(self) -> None:
        if self.waiting != 1:
            super()._dispatch()


class DrainsEarly(Batcher[Any, Any]):
    """Drain returns when the queue is empty, while batches still run."""

    async def drain(self) -> None:
        while self.waiting:
            await self._idle.wait()
            self._idle.clear()
