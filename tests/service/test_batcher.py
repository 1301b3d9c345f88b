"""The batcher answers every picture exactly once, in time or not at all, whatever the network and the callers do."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.batcher import BatchAnswer, Batcher, Infer
from service.engine import NetworkOutput
from service.errors import DeadlineExceededError, InferenceFailedError, OverloadedError

FAR = 1e9  # a deadline that never passes
POISON = 255


class RecordingObserver:
    """Keeps what the batcher reports."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.failures = 0

    def queue_changed(self, length: int) -> None:
        """Not kept."""

    def batch_started(self, size: int) -> None:
        self.sizes.append(size)

    def batch_failed(self) -> None:
        self.failures += 1


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def picture(value: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 3), value, np.uint8)


def echo(images: NDArray[np.uint8]) -> NetworkOutput:
    """A network of which every output tells which picture it saw; it fails on POISON."""
    if (images == POISON).any():
        raise RuntimeError("bad picture")
    first = images[:, 0, 0, 0].astype(np.float32) / 256
    maps = np.repeat(first, 2 * 3 * 3).reshape(-1, 2, 3, 3)
    return NetworkOutput(np.stack([first, 1 - first], axis=1), maps, first)


def seen(answer: BatchAnswer) -> int:
    """The picture that all outputs of an answer belong to; -1 where they are of several."""
    output = answer.output
    told = {round(float(v) * 256) for v in (output.probabilities[0], *output.class_maps.flat, output.in_distribution)}
    return told.pop() if len(told) == 1 else -1


def batcher(
    infer: Infer, threads: ThreadPoolExecutor, observer: RecordingObserver | None = None, **limits: int
) -> Batcher:
    sizes = {"workers": 1, "max_batch_size": 8, "max_queue_size": 1000} | limits
    return Batcher(infer, threads, observer or RecordingObserver(), **sizes)


class Gate:
    """A network that waits until it is opened."""

    def __init__(self) -> None:
        self.opened, self.seen = threading.Event(), 0

    def __call__(self, images: NDArray[np.uint8]) -> NetworkOutput:
        self.opened.wait(30)
        self.seen += len(images)
        return echo(images)


async def test_each_caller_gets_its_own_answer(threads: ThreadPoolExecutor) -> None:
    """Answers are never swapped within a batch."""
    subject = batcher(echo, threads, workers=2)
    answers = await asyncio.gather(*(subject.submit(picture(n), FAR) for n in range(100)))
    assert [seen(a) for a in answers] == list(range(100))


async def test_a_free_worker_waits_for_nobody(threads: ThreadPoolExecutor) -> None:
    """A lone picture goes to the network at once, as a batch of one."""
    observer = RecordingObserver()
    await batcher(echo, threads, observer).submit(picture(1), FAR)
    assert observer.sizes == [1]


async def test_what_queued_meanwhile_goes_together(threads: ThreadPoolExecutor) -> None:
    """While the worker is busy pictures gather, and leave in batches of at most the maximum."""
    observer, gate = RecordingObserver(), Gate()
    subject = batcher(gate, threads, observer, max_batch_size=4)
    jobs = [asyncio.ensure_future(subject.submit(picture(n), FAR)) for n in range(10)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(*jobs)
    assert observer.sizes == [1, 4, 4, 1]


async def test_free_workers_share_the_queue(threads: ThreadPoolExecutor) -> None:
    """Two workers that become free take halves; neither idles while the other has it all."""
    observer, gate = RecordingObserver(), Gate()
    subject = batcher(gate, threads, observer, workers=2)
    jobs = [asyncio.ensure_future(subject.submit(picture(n), FAR)) for n in range(10)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(*jobs)
    assert observer.sizes[:2] == [1, 1]
    assert max(observer.sizes) <= 8
    assert sum(observer.sizes) == 10


async def test_one_bad_picture_costs_only_itself(threads: ThreadPoolExecutor) -> None:
    """Seven neighbours of a picture that the network fails on get their answers."""
    gate = Gate()
    subject = batcher(gate, threads)
    values = [0, 1, 2, POISON, 4, 5, 6, 7, 8]
    jobs = [asyncio.ensure_future(subject.submit(picture(v), FAR)) for v in values]
    await asyncio.sleep(0)
    gate.opened.set()
    answers = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(answers[3], InferenceFailedError)
    good = [a for a in answers if not isinstance(a, BaseException)]
    assert [seen(a) for a in good] == [0, 1, 2, 4, 5, 6, 7, 8]


async def test_a_cancelled_caller_costs_nobody_else_the_answer(threads: ThreadPoolExecutor) -> None:
    """Callers leave while queued and while computed; the others are answered."""
    gate = Gate()
    subject = batcher(gate, threads, max_batch_size=4)
    jobs = [asyncio.ensure_future(subject.submit(picture(n), FAR)) for n in range(9)]
    await asyncio.sleep(0.01)
    for leaving in (0, 2, 3, 8):  # 0 is being computed, the others are queued
        jobs[leaving].cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    answers = await asyncio.gather(*jobs, return_exceptions=True)
    left = [isinstance(a, asyncio.CancelledError) for a in answers]
    assert left == [n in (0, 2, 3, 8) for n in range(9)]
    assert gate.seen == 6, "those who left while queued never reach the network"


async def test_an_expired_picture_never_reaches_the_network(threads: ThreadPoolExecutor) -> None:
    """Its caller gets DeadlineExceededError; no work is spent."""
    gate, now = Gate(), [0.0]
    subject = Batcher(
        gate, threads, RecordingObserver(), workers=1, max_batch_size=8, max_queue_size=9, clock=lambda: now[0]
    )
    first = asyncio.ensure_future(subject.submit(picture(1), 100))
    late = asyncio.ensure_future(subject.submit(picture(2), 3))
    await asyncio.sleep(0)
    now[0] = 3.5
    gate.opened.set()
    await first
    with pytest.raises(DeadlineExceededError):
        await late
    assert gate.seen == 1


async def test_a_full_queue_refuses(threads: ThreadPoolExecutor) -> None:
    """The queue never grows past its bound."""
    gate = Gate()
    subject = batcher(gate, threads, max_queue_size=2)
    jobs = [asyncio.ensure_future(subject.submit(picture(n), FAR)) for n in range(3)]  # one runs, two wait
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await subject.submit(picture(9), FAR)
    gate.opened.set()
    await asyncio.gather(*jobs)


@pytest.mark.parametrize("row", [[np.nan, 1.0], [0.4, 0.4], [1.5, -0.5], [np.inf, 0.0], [np.nan, np.nan]])
async def test_no_invalid_probabilities_are_passed_on(threads: ThreadPoolExecutor, row: list[float]) -> None:
    """NaN, a sum that is not 1, negative values: an error, never an answer."""

    def wrong(images: NDArray[np.uint8]) -> NetworkOutput:
        return dataclasses.replace(echo(images), probabilities=np.array([row] * len(images), np.float32))

    with pytest.raises(InferenceFailedError):
        await batcher(wrong, threads).submit(picture(1), FAR)


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.1, np.inf])
async def test_no_invalid_score_is_passed_on(threads: ThreadPoolExecutor, score: float) -> None:
    """A gate that cannot tell is not open."""

    def wrong(images: NDArray[np.uint8]) -> NetworkOutput:
        return dataclasses.replace(echo(images), in_distribution=np.full(len(images), score, np.float32))

    with pytest.raises(InferenceFailedError):
        await batcher(wrong, threads).submit(picture(1), FAR)


async def test_no_invalid_class_map_is_passed_on(threads: ThreadPoolExecutor) -> None:
    """One NaN cell in a map of one picture fails that picture alone."""

    def wrong(images: NDArray[np.uint8]) -> NetworkOutput:
        output = echo(images)
        output.class_maps[images[:, 0, 0, 0] == 3, 0, 1, 1] = np.nan
        return output

    subject = batcher(wrong, threads)
    answers = await asyncio.gather(*(subject.submit(picture(n), FAR) for n in range(6)), return_exceptions=True)
    assert [isinstance(answer, InferenceFailedError) for answer in answers] == [n == 3 for n in range(6)]


@pytest.mark.parametrize("part", ["probabilities", "class_maps", "in_distribution"])
async def test_too_few_answers_are_an_error(threads: ThreadPoolExecutor, part: str) -> None:
    """A network that gives fewer rows than pictures, in whichever output, answers nobody wrongly."""

    def short(images: NDArray[np.uint8]) -> NetworkOutput:
        output = echo(images)
        return dataclasses.replace(output, **{part: getattr(output, part)[:-1]})

    subject = batcher(short, threads)
    answers = await asyncio.gather(*(subject.submit(picture(n), FAR) for n in range(3)), return_exceptions=True)
    assert all(isinstance(answer, InferenceFailedError) for answer in answers)


async def test_drain_waits_for_the_last_picture(threads: ThreadPoolExecutor) -> None:
    """After drain nothing is queued or running."""
    gate = Gate()
    subject = batcher(gate, threads, max_batch_size=2)
    jobs = [asyncio.ensure_future(subject.submit(picture(n), FAR)) for n in range(5)]
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(subject.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    gate.opened.set()
    await draining
    assert all(job.done() for job in jobs)


CALLERS = st.lists(
    st.tuples(
        st.sampled_from(["stays", "leaves"]),
        st.sampled_from([1, 2, 3, POISON]),
        st.integers(0, 3),  # turns of the event loop before it comes
        st.integers(0, 6),  # turns before it leaves
    ),
    min_size=1,
    max_size=25,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(callers=CALLERS, workers=st.integers(1, 3), max_batch_size=st.integers(1, 6))
def test_any_schedule_answers_everyone_rightly(
    callers: list[tuple[str, int, int, int]], workers: int, max_batch_size: int
) -> None:
    """Random arrivals, departures and failing pictures: nobody hangs, nobody gets another's answer."""

    async def call(subject: Batcher, behaviour: str, value: int, comes: int, leaves: int) -> str:
        for _ in range(comes):
            await asyncio.sleep(0)
        job = asyncio.ensure_future(subject.submit(picture(value), FAR))
        if behaviour == "leaves":
            for _ in range(leaves):
                await asyncio.sleep(0)
            job.cancel()
        try:
            answer = await job
        except asyncio.CancelledError:
            return "left"
        except InferenceFailedError:
            return "failed"
        return "right" if seen(answer) == value else "another's answer"

    async def schedule() -> list[str]:
        with ThreadPoolExecutor(workers) as threads:
            subject = batcher(echo, threads, workers=workers, max_batch_size=max_batch_size)
            async with asyncio.timeout(20):
                outcomes = await asyncio.gather(*(call(subject, *caller) for caller in callers))
                await subject.drain()
        return outcomes

    for (behaviour, value, _, _), outcome in zip(callers, asyncio.run(schedule()), strict=True):
        expected = {"failed" if value == POISON else "right"} | ({"left"} if behaviour == "leaves" else set())
        assert outcome in expected
