"""Many schedules over all cores, or one of them told event by event."""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from tests.simulation.simulate import Verdict, simulate

_CHUNK = 250


@dataclass(frozen=True)
class Chunk:
    """What some schedules gave: the events counted, the seeds that failed with the promises they broke."""

    schedules: int
    events: Counter[str]
    failures: dict[str, list[str]]


def run_schedules(schedules: int, seed: int, processes: int) -> Chunk:
    """The schedules `seed:0` to `seed:<schedules - 1>`."""
    starts = range(0, schedules, _CHUNK)
    chunks = [(seed, range(start, min(start + _CHUNK, schedules))) for start in starts]
    total = Chunk(schedules, Counter(), {})
    with multiprocessing.Pool(processes) as pool, tqdm(total=schedules, unit=" schedules") as progress:
        for chunk in pool.imap_unordered(_run_chunk, chunks):
            total.events.update(chunk.events)
            total.failures.update(chunk.failures)
            progress.set_postfix(failed=len(total.failures), refresh=False)
            progress.update(chunk.schedules)
    return total


def replay(seed: str) -> Iterator[str]:
    """The story of one schedule, a line an event: virtual time, event, item numbers or caller."""
    with quiet_log():
        verdict: Verdict = simulate(seed)
    yield str(verdict.referee.schedule)
    for time, event, of in verdict.referee.story:
        yield f"{time:5g}  {event}  {'' if of is None else of}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_log() -> Iterator[None]:
    """Failing batches are what the schedules are for: no log line for each."""
    logger = logging.getLogger("dermserve")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _run_chunk(chunk: tuple[int, Iterable[int]]) -> Chunk:
    seed, numbers = chunk
    events: Counter[str] = Counter()
    failures: dict[str, list[str]] = {}
    ran = 0
    with quiet_log():
        for number in numbers:
            verdict = simulate(f"{seed}:{number}")
            events.update(verdict.referee.events())
            ran += 1
            if verdict.violations:
                failures[verdict.seed] = verdict.violations
    return Chunk(ran, events, failures)
