"""The batcher with real threads: who is computed with whom, and what each caller is told.

That it holds in any order of events is what `tests/simulation` shows, in virtual time.
"""

import asyncio
import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from service.batcher import Answered, Batcher, DropReason
from service.errors import DeadlineExceededError, InferenceFailedError, InvalidImageError, OverloadedError

FAR = 1e9  # a deadline that never passes
POISON = 255


class RecordingObserver:
    """Keeps what the batcher reports."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.sizes: list[int] = []
        self.failures = 0
        self.drops: Counter[str] = Counter()

    def queue_changed(self, length: int) -> None:
        self.lengths.append(length)

    def batch_ran(self, size: int) -> None:
        self.sizes.append(size)

    def batch_failed(self) -> None:
        self.failures += 1

    def dropped(self, reason: DropReason) -> None:
        self.drops[reason] += 1

    def left_in_work(self) -> None:
        self.drops["in work"] += 1


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def tenfold(items: Sequence[int]) -> list[int | Exception]:
    """Work whose outcome tells which item it is of; it fails with POISON."""
    if POISON in items:
        raise RuntimeError("bad item")
    return [item * 10 for item in items]


class Gate:
    """Work that waits until it is opened, and remembers what it was given."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.seen: list[int] = []

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.opened.wait(30)
        self.seen += items
        return tenfold(items)


def batcher(
    work: Callable[[Sequence[int]], Any],
    threads: ThreadPoolExecutor,
    observer: RecordingObserver | None = None,
    **options: Any,
) -> Batcher[int, int]:
    defaults: dict[str, Any] = {"workers": 1, "batch_limit": lambda: 8, "queue_limit": 1000}
    return Batcher(work, threads, observer or RecordingObserver(), **defaults | options)


async def started(*calls: Coroutine[Any, Any, Answered[int]]) -> list[asyncio.Task[Answered[int]]]:
    """The calls, each of them begun."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: Sequence[asyncio.Task[Answered[int]]]) -> list[Any]:
    """What each caller is told: its result, or the type of its error."""
    told = await asyncio.gather(*tasks, return_exceptions=True)
    return [one.result if isinstance(one, Answered) else type(one) for one in told]


async def test_each_caller_gets_its_own_answer(threads: ThreadPoolExecutor) -> None:
    """Answers are never swapped, within a batch or between workers."""
    subject = batcher(tenfold, threads, workers=4)
    tasks = await started(*(subject.submit(n, FAR) for n in range(100)))
    assert await outcomes(tasks) == [n * 10 for n in range(100)]


async def test_a_free_worker_waits_for_nobody(threads: ThreadPoolExecutor) -> None:
    """A lone item is computed at once, as a batch of one."""
    observer = RecordingObserver()
    answer = await batcher(tenfold, threads, observer).submit(1, FAR)
    assert (answer.result, answer.batch_size, observer.sizes) == (10, 1, [1])


async def test_what_queued_meanwhile_goes_together(threads: ThreadPoolExecutor) -> None:
    """While the worker is busy items gather, and leave in batches of at most the limit."""
    observer, gate = RecordingObserver(), Gate()
    subject = batcher(gate, threads, observer, batch_limit=lambda: 4)
    tasks = await started(*(subject.submit(n, FAR) for n in range(10)))
    assert (subject.running, subject.waiting, observer.lengths[-1]) == (1, 9, 9)
    gate.opened.set()
    assert [answer.batch_size for answer in await asyncio.gather(*tasks)] == [1, 4, 4, 4, 4, 4, 4, 4, 4, 1]
    assert observer.sizes == [1, 4, 4, 1]
    assert (subject.running, subject.waiting, observer.lengths[-1]) == (0, 0, 0)


async def test_the_batch_limit_may_change(threads: ThreadPoolExecutor) -> None:
    """Each batch is of the size that is best at that moment; a limit below one is one."""
    observer, gate, limits = RecordingObserver(), Gate(), iter((8, 2, 0, 5, 8))
    subject = batcher(gate, threads, observer, batch_limit=lambda: next(limits))
    tasks = await started(*(subject.submit(n, FAR) for n in range(10)))
    gate.opened.set()
    await asyncio.gather(*tasks)
    assert observer.sizes == [1, 2, 1, 5, 1]


async def test_workers_run_side_by_side(threads: ThreadPoolExecutor) -> None:
    """As many batches run at once as there are workers, and no more."""
    meeting = threading.Barrier(3)

    def work(items: Sequence[int]) -> list[int]:
        meeting.wait(30)  # raises unless three come
        return list(items)

    subject = batcher(work, threads, workers=3, batch_limit=lambda: 1)
    tasks = await started(*(subject.submit(n, FAR) for n in range(6)))
    assert (subject.running, subject.waiting) == (3, 3)
    assert await outcomes(tasks) == list(range(6))


async def test_earliest_deadline_first(threads: ThreadPoolExecutor) -> None:
    """Whoever must have the answer soonest is next; of equals, who came first."""
    gate = Gate()
    subject = batcher(gate, threads, batch_limit=lambda: 2)
    deadlines = [FAR, FAR + 3, FAR + 1, FAR + 2, FAR + 1]
    tasks = await started(*(subject.submit(n, deadline) for n, deadline in enumerate(deadlines)))
    gate.opened.set()
    await asyncio.gather(*tasks)
    assert gate.seen == [0, 2, 4, 3, 1]


async def test_a_free_thread_does_not_wait_for_the_event_loop() -> None:
    """A full batch that was handed over ahead is computed while the loop is busy; the next one waits for the loop."""
    with ThreadPoolExecutor(1) as thread:
        gate, done = Gate(), threading.Event()
        subject = batcher(gate, thread, batch_limit=lambda: 2, ahead=1)
        tasks = await started(*(subject.submit(n, FAR) for n in range(5)))
        assert (subject.running, subject.waiting) == (2, 2)
        thread.submit(done.set)  # after what was handed over
        gate.opened.set()
        assert done.wait(30)
        assert gate.seen == [0, 1, 2]
        assert await outcomes(tasks) == [0, 10, 20, 30, 40]


async def test_a_batch_that_may_grow_is_not_handed_over_ahead(threads: ThreadPoolExecutor) -> None:
    """While no thread is free anyway, what waits may get company."""
    gate = Gate()
    subject = batcher(gate, threads, batch_limit=lambda: 2, ahead=1)
    tasks = await started(*(subject.submit(n, FAR) for n in range(2)))
    assert (subject.running, subject.waiting) == (1, 1)
    gate.opened.set()
    assert await outcomes(tasks) == [0, 10]


async def test_who_leaves_after_the_handing_over_is_spared_work() -> None:
    """The thread that begins a batch looks who is still there, and who is in time."""
    observer, gate, now = RecordingObserver(), Gate(), [0.0]
    with ThreadPoolExecutor(1) as thread:
        subject = batcher(gate, thread, observer, batch_limit=lambda: 1, ahead=3, clock=lambda: now[0])
        tasks = await started(*(subject.submit(n, deadline) for n, deadline in ((0, 9), (1, FAR), (2, 9), (3, FAR))))
        assert subject.waiting == 0
        tasks[1].cancel()
        await asyncio.sleep(0)
        now[0] = 9
        gate.opened.set()
        told = await outcomes(tasks)
    assert told == [0, asyncio.CancelledError, DeadlineExceededError, 30]
    assert gate.seen == [0, 3]
    assert observer.drops == {"departed": 1, "expired": 1}


async def test_one_bad_item_costs_only_itself(threads: ThreadPoolExecutor) -> None:
    """Seven neighbours of an item that the work fails on get their answers."""
    gate = Gate()
    subject = batcher(gate, threads)
    tasks = await started(*(subject.submit(n, FAR) for n in (0, 1, 2, POISON, 4, 5, 6, 7, 8)))
    gate.opened.set()
    assert await outcomes(tasks) == [0, 10, 20, InferenceFailedError, 40, 50, 60, 70, 80]


async def test_an_item_may_fail_alone(threads: ThreadPoolExecutor) -> None:
    """Its own ServiceError reaches its caller as it is, another exception as inference_failed; nothing is retried."""
    observer, gate = RecordingObserver(), threading.Event()

    def work(items: Sequence[int]) -> list[int | Exception]:
        gate.wait(30)
        return [{2: InvalidImageError("no picture"), 3: KeyError("a bug")}.get(item, item) for item in items]

    subject = batcher(work, threads, observer)
    tasks = await started(*(subject.submit(n, FAR) for n in range(5)))
    gate.set()
    assert await outcomes(tasks) == [0, 1, InvalidImageError, InferenceFailedError, 4]
    assert (observer.sizes, observer.failures) == ([1, 4], 0)


@pytest.mark.parametrize("error", [MemoryError, SystemExit, StopIteration, KeyboardInterrupt, asyncio.CancelledError])
async def test_whatever_the_work_raises_the_caller_is_told(
    threads: ThreadPoolExecutor, error: type[BaseException]
) -> None:
    """Not only exceptions that somebody foresaw: those that end threads or loops too, and the worker works on."""

    def work(items: Sequence[int]) -> list[int]:
        if items[0] == POISON:
            raise error
        return list(items)

    subject = batcher(work, threads)
    tasks = await started(subject.submit(POISON, FAR), subject.submit(1, FAR))
    assert await outcomes(tasks) == [InferenceFailedError, 1]


@pytest.mark.parametrize("wrong", [lambda items: items[:-1], lambda items: [*items, 0], lambda items: None])
async def test_a_wrong_number_of_outcomes_is_an_error(
    threads: ThreadPoolExecutor, wrong: Callable[[Sequence[int]], Any]
) -> None:
    """Work that gives too few or too many answers nobody wrongly."""
    subject = batcher(wrong, threads)
    tasks = await started(*(subject.submit(n, FAR) for n in range(3)))
    assert await outcomes(tasks) == [InferenceFailedError] * 3


async def test_threads_that_are_gone_leave_nobody_waiting(threads: ThreadPoolExecutor) -> None:
    """An executor that takes no work fails the items at once, those who queued too, and drain ends."""
    gate = Gate()
    subject = batcher(gate, threads)
    tasks = await started(*(subject.submit(n, FAR) for n in range(4)))
    threads.shutdown(wait=False)
    gate.opened.set()
    assert await outcomes(tasks) == [0, *[InferenceFailedError] * 3]
    await subject.drain()


async def test_a_cancelled_caller_costs_nobody_else_the_answer(threads: ThreadPoolExecutor) -> None:
    """Callers leave while queued and while computed; the others are answered, and no work is spent on the queued."""
    observer, gate = RecordingObserver(), Gate()
    subject = batcher(gate, threads, observer, batch_limit=lambda: 4)
    tasks = await started(*(subject.submit(n, FAR) for n in range(9)))
    for leaving in (0, 2, 3, 8):  # 0 is being computed, the others are queued
        tasks[leaving].cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    told = await outcomes(tasks)
    assert told == [asyncio.CancelledError if n in (0, 2, 3, 8) else n * 10 for n in range(9)]
    assert gate.seen == [0, 1, 4, 5, 6, 7]
    assert observer.drops == {"departed": 3, "in work": 1}


async def test_who_leaves_work_that_fails_is_counted_too(threads: ThreadPoolExecutor) -> None:
    """The worker was kept busy for nobody, whatever came of it."""
    observer, gate = RecordingObserver(), Gate()
    subject = batcher(gate, threads, observer)
    tasks = await started(subject.submit(POISON, FAR))
    tasks[0].cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await outcomes(tasks)
    await subject.drain()
    assert observer.drops == {"in work": 1}


async def test_who_leaves_frees_its_place_at_once(threads: ThreadPoolExecutor) -> None:
    """A full queue takes the next caller as soon as one of those who wait is gone."""
    gate = Gate()
    subject = batcher(gate, threads, queue_limit=2)
    tasks = await started(*(subject.submit(n, FAR) for n in range(3)))  # one runs, two wait
    with pytest.raises(OverloadedError):
        await subject.submit(8, FAR)
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks += await started(subject.submit(9, FAR))
    gate.opened.set()
    assert await outcomes(tasks) == [0, asyncio.CancelledError, 20, 90]


async def test_an_expired_item_is_never_computed(threads: ThreadPoolExecutor) -> None:
    """Its caller gets DeadlineExceededError; the others are told how long they waited."""
    observer, gate, now = RecordingObserver(), Gate(), [0.0]
    subject = batcher(gate, threads, observer, clock=lambda: now[0])
    tasks = await started(subject.submit(1, 100), subject.submit(2, 3.5), subject.submit(3, 100))
    now[0] = 3.5
    gate.opened.set()
    assert await outcomes(tasks) == [10, DeadlineExceededError, 30]
    assert gate.seen == [1, 3]
    assert observer.drops == {"expired": 1}
    assert [tasks[n].result().queue_seconds for n in (0, 2)] == [0, 3.5]


async def test_drain_waits_for_the_last_item(threads: ThreadPoolExecutor) -> None:
    """After drain nothing is queued or running; an idle batcher is drained at once."""
    gate = Gate()
    subject = batcher(gate, threads, batch_limit=lambda: 2)
    await subject.drain()
    tasks = await started(*(subject.submit(n, FAR) for n in range(5)))
    draining = asyncio.ensure_future(subject.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    gate.opened.set()
    await draining
    assert all(task.done() for task in tasks)


async def test_a_crowd_in_real_threads_is_answered_rightly(threads: ThreadPoolExecutor) -> None:
    """A thousand callers, a third of whom leave at some time, bad items among them: nobody hangs or is told wrongly."""
    dice = random.Random(1)
    subject = batcher(tenfold, threads, workers=4)

    async def call(number: int) -> bool:
        item = POISON if number % 10 == 9 else number % 200
        await asyncio.sleep(dice.random() * 0.05)
        task = asyncio.ensure_future(subject.submit(item, FAR))
        if number % 3 == 0:
            await asyncio.sleep(dice.random() * 0.002)
            task.cancel()
        right = InferenceFailedError if item == POISON else item * 10
        [told] = await outcomes([task])
        return told == right or (number % 3 == 0 and told is asyncio.CancelledError)

    async with asyncio.timeout(60):
        assert all(await asyncio.gather(*(call(number) for number in range(1000))))
        await subject.drain()
    assert (subject.running, subject.waiting) == (0, 0)


async def test_a_failed_item_is_let_go_at_once(threads: ThreadPoolExecutor) -> None:
    """Its exception does not keep it in memory until the garbage collector comes by."""

    class Item:
        pass

    def refuse(items: Sequence[object]) -> list[Exception]:
        return [InvalidImageError("damaged") for _ in items]

    async def ask() -> "weakref.ref[Item]":
        with suppress(InvalidImageError):
            await subject.submit(item := Item(), FAR)
        return weakref.ref(item)

    subject: Batcher[object, object] = Batcher(
        refuse, threads, RecordingObserver(), workers=1, batch_limit=lambda: 1, queue_limit=1
    )
    gc.disable()
    try:
        kept = await ask()
        async with asyncio.timeout(10):  # the worker lets go a moment after its answer
            while kept():
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
