"""One schedule through a batcher, in virtual time, under the eyes of the referee."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from service.batcher import Batcher
from tests.simulation.referee import Outcome, Referee, RejectedError
from tests.simulation.schedule import HANGING_SECONDS, Caller, Fault, Nature, draw
from tests.simulation.virtual_time import StalledError, VirtualExecutor, VirtualLoop

_FAULTS = tuple(fault for fault in Fault if fault is not Fault.NONE)


@dataclass(frozen=True)
class Verdict:
    """What the referee saw in the run of one seed."""

    seed: str
    referee: Referee

    @property
    def violations(self) -> list[str]:
        """The broken promises; none if all is well."""
        return self.referee.violations


class SilentObserver:
    """The referee watches from outside."""

    def queue_changed(self, length: int) -> None: ...

    def batch_ran(self, size: int) -> None: ...

    def batch_failed(self) -> None: ...

    def dropped(self, reason: str) -> None: ...

    def left_in_work(self) -> None: ...


class Simulation:
    """A batcher, an engine that fails as the dice say, and callers who come and go."""

    def __init__(self, seed: str, make_batcher: Callable[..., Batcher[Caller, int]] = Batcher) -> None:
        self._dice = random.Random(seed)
        self._schedule = draw(self._dice)
        self._loop = VirtualLoop(self._dice, self._before_time_passes)  # type: ignore[abstract]
        self.referee = Referee(self._schedule, self._loop.time)
        self._executor = VirtualExecutor(self._loop, self._schedule.workers, self._seconds, self._refuses)
        self._engine_is_sound = False
        self._batcher = make_batcher(
            self._work,
            self._executor,
            SilentObserver(),
            workers=self._schedule.workers,
            batch_limit=self._batch_limit,
            queue_limit=self._schedule.queue_limit,
            ahead=self._schedule.ahead,
            clock=self._loop.time,
        )

    def run(self) -> None:
        """From the first arrival until every worker has proved to be free again."""
        try:
            self._loop.run_until_complete(self._main())
        except StalledError:
            self.referee.violation("no caller hangs, and drain ends", None)
        for error in self._loop.errors:
            self.referee.violation(f"no callback raises {type(error).__name__}", error)

    async def _main(self) -> None:
        draining = self._loop.create_future()
        self._loop.at(self._schedule.drains_at, draining.set_result, None)
        everybody = self._call(self._schedule.callers)
        await draining
        await self._drain()  # while they still come
        await everybody
        await self._drain()
        await self._probe()

    async def _drain(self) -> None:
        await self._batcher.drain()
        self.referee.note("drained", None)
        if self._executor.running or self._batcher.running or self._batcher.waiting:
            self.referee.violation("after drain nothing is queued or running", self._executor.running)

    async def _probe(self) -> None:
        """As many callers as workers: each must find a free one, whatever happened before."""
        self._engine_is_sound = True
        now, first = self._loop.time(), len(self._schedule.callers)
        numbers = range(first, first + self._schedule.workers)
        await self._call([Caller(number, Nature.GOOD, now, inf, inf, 0) for number in numbers])
        await self._drain()

    def _call(self, callers: Sequence[Caller]) -> "asyncio.Future[None]":
        """Let them come; the future is done when the last of them has ended."""
        everybody = self._loop.create_future()
        inside = len(callers)

        def leaves(_: asyncio.Task[None]) -> None:
            nonlocal inside
            inside -= 1
            if not inside:
                everybody.set_result(None)

        def comes(caller: Caller) -> None:
            task = self._loop.create_task(self._submit(caller))
            task.add_done_callback(leaves)
            if caller.leaves == caller.arrives:
                self._depart(caller, task, caller.turns)  # perhaps before it has begun
            elif caller.leaves < inf:
                self._loop.at(caller.leaves, self._depart, caller, task, caller.turns)

        for caller in callers:
            self._loop.at(caller.arrives, comes, caller)
        return everybody

    async def _submit(self, caller: Caller) -> None:
        self.referee.arrives(caller)
        outcome: Outcome
        try:
            outcome = await self._batcher.submit(caller, caller.deadline)
        except BaseException as error:
            outcome = error
        self.referee.ended(caller, outcome)

    def _depart(self, caller: Caller, task: asyncio.Task[None], turns: int) -> None:
        if turns:
            self._loop.call_soon(self._depart, caller, task, turns - 1)
        elif not task.done():
            self.referee.departs(caller)
            task.cancel()

    def _work(self, callers: Sequence[Caller]) -> Any:
        numbers = [caller.number for caller in callers]
        self.referee.takes(numbers, self._executor.running)
        fault = self._fault()
        poisoned = any(caller.nature is Nature.POISON for caller in callers)
        cause = "poison" if poisoned else None if fault is Fault.NONE else fault.value
        self._executor.at_end = partial(self.referee.returns, numbers, cause)
        if poisoned:
            raise ValueError("poison")
        outcomes = [_outcome(caller) for caller in callers]
        match fault:
            case Fault.RAISES:
                raise MemoryError
            case Fault.ENDS_THREAD:
                raise SystemExit
            case Fault.ENDS_ITERATION:
                raise StopIteration
            case Fault.TOO_FEW:
                return outcomes[1:]
            case Fault.TOO_MANY:
                return [outcomes[0], *outcomes]
            case Fault.NO_OUTCOMES:
                return None
            case Fault.CANCELLED:
                self._executor.cancelled = True
        return outcomes

    def _fault(self) -> Fault:
        if self._engine_is_sound or self._dice.random() >= self._schedule.fault_share:
            return Fault.NONE
        return _FAULTS[int(self._dice.random() * len(_FAULTS))]

    def _seconds(self) -> float:
        if self._dice.random() < self._schedule.hanging_share:
            self.referee.note("hangs", None)
            return HANGING_SECONDS
        # The probes must not be over at once: they have to run side by side.
        return int(self._dice.random() * (self._schedule.slowness + 1)) + self._engine_is_sound

    def _refuses(self, jobs: Sequence[Any]) -> bool:
        numbers = [job.item.number for job in jobs]
        self.referee.hands_over(numbers, ahead=self._executor.busy)
        refuses = not self._engine_is_sound and self._dice.random() < self._schedule.refusal_share
        if refuses:
            self.referee.executor_refuses(numbers)
        return refuses

    def _batch_limit(self) -> int:
        self.referee.batch_limit = 1 + int(self._dice.random() * self._schedule.batch_limit_max)
        return self.referee.batch_limit

    def _before_time_passes(self) -> None:
        self.referee.time_passes(self._executor.running)


def _outcome(caller: Caller) -> int | Exception:
    match caller.nature:
        case Nature.REJECTED:
            return RejectedError(caller.number)
        case Nature.BROKEN:
            return StopIteration("a bug")
        case _:
            return caller.number


def simulate(seed: str, make_batcher: Callable[..., Batcher[Caller, int]] = Batcher) -> Verdict:
    """Run the schedule of a seed; the same seed always gives the same run."""
    simulation = Simulation(seed, make_batcher)
    simulation.run()
    return Verdict(seed, simulation.referee)
