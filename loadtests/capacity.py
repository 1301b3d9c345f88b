"""How much can this service answer? A closed loop: a few callers, each sends its next picture after its last answer."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.answers import ANSWERED, classify
from loadtests.http_client import ConnectionPool, HttpProtocolError

WARM_UP_SECONDS = 1.0
GIVE_UP_SECONDS = 15.0
PAUSE_AFTER_FAILURE_SECONDS = 0.05  # a refused caller does not spin


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a closed loop reached."""

    answers_per_second: float
    clients: int
    seconds: float
    failures: int


async def measure_capacity(
    pool: ConnectionPool, requests: Sequence[tuple[bytes, bytes]], *, clients: int, seconds: float
) -> Capacity:
    """Answers a second with `clients` callers at once, counted for `seconds` after a second of warm-up."""
    loop = asyncio.get_running_loop()
    counting_from = loop.time() + WARM_UP_SECONDS
    ends_at = counting_from + seconds
    turns = itertools.cycle(requests)
    answered = failures = 0

    async def caller() -> None:
        nonlocal answered, failures
        while loop.time() < ends_at:
            try:
                # not cut off at the end: the service must be idle when the run begins
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    kind = classify(await pool.send(*next(turns)))
            except (OSError, HttpProtocolError):
                kind = "failed"
            if not counting_from <= loop.time() < ends_at:
                continue
            if kind == ANSWERED:
                answered += 1
            else:
                failures += 1
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(caller())
    return Capacity(answered / seconds, clients, seconds, failures)
