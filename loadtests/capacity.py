"""How much can this service answer? A closed loop: a few callers, each sends its next picture after its last answer.

wrk measures it where it is installed, so that the figure is comparable with anybody's; else our own client does, which
needs about as much processor time a request (loadtests/http_client.py). What was used is part of the result.
"""

import asyncio
import itertools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import wrk
from loadtests.answers import ANSWERED, classify
from loadtests.generator import PREDICTIONS
from loadtests.http_client import ConnectionPool, HttpProtocolError
from loadtests.service_process import ServiceUnavailableError

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
    measured_by: str  # "wrk" or "asyncio"


async def measure_capacity(
    pool: ConnectionPool, requests: Sequence[bytes], *, clients: int, seconds: float
) -> Capacity:
    """Answers a second with `clients` callers at once, by the lightest generator at hand."""
    if shutil.which("wrk") is None or pool.origin.tls:
        return await closed_loop(pool, requests, clients=clients, seconds=seconds)
    whole_seconds = max(1, round(seconds))
    found = await asyncio.to_thread(_run_wrk, pool.origin.url + PREDICTIONS, requests, clients, whole_seconds)
    return Capacity(found.answers_per_second, clients, whole_seconds, found.refused + found.failed, "wrk")


async def required_capacity(
    pool: ConnectionPool, requests: Sequence[bytes], *, clients: int, seconds: float
) -> Capacity:
    """The capacity that a rate is to be a share of; raises ServiceUnavailableError when nothing is answered."""
    print(f"Measuring the capacity with {clients} clients ...", file=sys.stderr)  # noqa: T201 - it takes seconds
    capacity = await measure_capacity(pool, requests, clients=clients, seconds=seconds)
    if capacity.answers_per_second == 0:
        raise ServiceUnavailableError(f"{pool.origin.url} answered no prediction: {capacity.failures} requests failed")
    return capacity


def _run_wrk(url: str, requests: Sequence[bytes], clients: int, seconds: int) -> wrk.ClosedLoop:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index:04}.http" for index in range(len(requests))]
        for file, request in zip(files, requests, strict=True):
            file.write_bytes(request)
        return wrk.load(url, files, clients=clients, seconds=seconds)


async def closed_loop(pool: ConnectionPool, requests: Sequence[bytes], *, clients: int, seconds: float) -> Capacity:
    """The same with our own client, counted for `seconds` after a second of warm-up."""
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
                    kind = classify(await pool.send(next(turns)))
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
    return Capacity(answered / seconds, clients, seconds, failures, "asyncio")
