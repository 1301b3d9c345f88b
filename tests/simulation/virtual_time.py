"""An event loop whose clock is virtual, and an executor whose jobs take virtual seconds: no sleep, no thread.

The loop offers what the batcher and its callers need and nothing more. It has no `call_later`: a batcher that sets a
timer fails here.
"""

import asyncio
import heapq
import itertools
import random
from asyncio.events import _set_running_loop  # the documented way for those who write a loop
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextvars import Context
from functools import partial
from typing import Any


class StalledError(Exception):
    """Somebody waits for what can never come: nothing is left that could happen, or time stands still."""


_CALLBACKS_IN_A_MOMENT = 100_000  # many times what any schedule has


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs all that can run now, then jumps to the next moment. The dice decide the order within a moment."""

    def __init__(self, dice: random.Random, before_time_passes: Callable[[], None]) -> None:
        self.errors: list[BaseException] = []  # what callbacks raised: a real loop would only log it
        self._now = 0.0
        self._dice, self._before_time_passes = dice, before_time_passes
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Context | None]] = deque()
        self._moments: list[tuple[float, float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def at(self, moment: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back at a virtual time."""
        heapq.heappush(self._moments, (moment, self._dice.random(), next(self._numbers), callback, arguments))

    def call_soon(self, callback: Any, *arguments: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        self._ready.append((callback, arguments, context))

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coroutine: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        return asyncio.Task(coroutine, loop=self)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    def run_until_complete(self, main: Coroutine[Any, Any, None]) -> None:  # type: ignore[override]
        """Run `main` to its end. Raises StalledError when it waits for what can never come."""
        task = self.create_task(main)
        _set_running_loop(self)
        try:
            while not task.done():
                self._run_ready()
                if not task.done():
                    self._before_time_passes()
                    self._next_moment()
        finally:
            _set_running_loop(None)
        task.result()

    def _run_ready(self) -> None:
        ready = self._ready
        for _ in range(_CALLBACKS_IN_A_MOMENT):
            if not ready:
                return
            callback, arguments, context = ready.popleft()
            try:
                if context is None:
                    callback(*arguments)
                else:
                    context.run(callback, *arguments)
            except BaseException as error:
                self.errors.append(error)
        raise StalledError

    def _next_moment(self) -> None:
        if not self._moments:
            raise StalledError
        self._now = self._moments[0][0]
        while self._moments and self._moments[0][0] == self._now:
            *_, callback, arguments = heapq.heappop(self._moments)
            self._ready.append((callback, arguments, None))


class VirtualExecutor(Executor):
    """Runs a job when one of its `threads` is free and tells the outcome `seconds()` of virtual time later.

    `refuses`, called with a job's arguments, decides whether it is refused, as by an executor that was shut down.
    """

    def __init__(
        self, loop: VirtualLoop, threads: int, seconds: Callable[[], float], refuses: Callable[..., bool]
    ) -> None:
        self._loop, self._threads, self._seconds, self._refuses = loop, threads, seconds, refuses
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.running = 0
        # A job may set these for itself: what happens when its time is over, and whether it is then seen as cancelled.
        self.at_end: Callable[[], None] | None = None
        self.cancelled = False

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Begin a job, or let it wait for a thread. Raises RuntimeError where it is refused."""
        if self._refuses(*arguments, **options):
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self._waiting.append((future, partial(work, *arguments, **options)))
        self._begin()
        return future

    @property
    def busy(self) -> bool:
        """Whether the next job will have to wait."""
        return self.running >= self._threads

    def _begin(self) -> None:
        """What waits goes to the free threads."""
        while self._waiting and not self.busy:
            self._run(*self._waiting.popleft())

    def _run(self, future: Future[Any], job: Callable[[], Any]) -> None:
        settle: Callable[[], object]
        self.running += 1
        self.at_end, self.cancelled = None, False
        try:
            settle = partial(future.set_result, job())
        except BaseException as error:
            settle = partial(future.set_exception, error)
        if self.cancelled:
            settle = future.cancel
        self._loop.at(self._loop.time() + self._seconds(), self._complete, settle, self.at_end)

    def _complete(self, settle: Callable[[], object], at_end: Callable[[], None] | None) -> None:
        self.running -= 1
        if at_end:
            at_end()
        settle()
        self._begin()
