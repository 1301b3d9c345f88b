"""A schedule of calls carried out against a service, and everything that was seen of both meanwhile."""

import asyncio
import gc
import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from loadtests.generator import Call, Exchange, OpenLoop, calls_in_turn
from loadtests.health import Probe, watched_health
from loadtests.http_client import ConnectionPool
from loadtests.progress import show_progress
from loadtests.server_metrics import ServerCount, ServerWatch, server_count, watched_server
from loadtests.slow_uploaders import drip
from loadtests.summary import Summary, summarise

WARM_UP_REQUESTS = 5
WARM_UP_GIVE_UP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the whole run."""

    target_seconds: float
    give_up_seconds: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class SlowUploads:
    """Callers on a bad line beside the others, for a part of the run."""

    number: int
    start_seconds: float
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the service in bytes."""

    before_bytes: float
    peak_bytes: float
    after_bytes: float

    @property
    def growth_mib(self) -> float:
        """How far the peak stood above the start, in MiB."""
        return (self.peak_bytes - self.before_bytes) / 2**20


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen."""

    started_at: str  # ISO 8601, UTC
    machine: str
    url: str
    model: str
    duration_seconds: float
    target_seconds: float
    exchanges: Sequence[Exchange]
    faults: dict[str, int]  # why an exchange is an error, in words
    most_in_flight: int
    connections_opened: int
    generator_cores: float  # processor seconds a second that the generator used
    server: ServerWatch
    health: Sequence[Probe]
    slow_upload_endings: dict[str, int]
    summary: Summary

    @property
    def memory(self) -> Memory | None:
        """Memory before, at its highest and after; None when the service does not tell."""
        readings = [memory_bytes for _, memory_bytes in self.server.memory]
        return Memory(readings[0], max(readings), readings[-1]) if readings else None

    @property
    def server_count(self) -> ServerCount | None:
        """What the service counted; None when it does not tell."""
        return server_count(self.server.first, self.server.last, self.target_seconds)


async def observe(
    pool: ConnectionPool,
    calls: Sequence[Call],
    duration_seconds: float,
    limits: Limits,
    slow: SlowUploads | None = None,
) -> Observation:
    """Carry out the calls, which are due over `duration_seconds`, and watch."""
    load = OpenLoop(pool, give_up_seconds=limits.give_up_seconds, in_flight_limit=limits.in_flight)
    started_at = datetime.now(UTC)
    gc.freeze()  # pictures and modules stay: collections during the run need not look at them
    cpu_seconds, wall_seconds = time.process_time(), time.perf_counter()
    with watched_health(pool.origin) as health:
        async with watched_server(pool.origin) as watch:
            endings = await _carry_out(pool, load, calls, slow)
    generator_cores = (time.process_time() - cpu_seconds) / (time.perf_counter() - wall_seconds)
    tally = load.tally
    return Observation(
        started_at=started_at.isoformat(timespec="seconds"),
        machine=f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        url=pool.origin.url,
        model=tally.model,
        duration_seconds=duration_seconds,
        target_seconds=limits.target_seconds,
        exchanges=tally.exchanges,
        faults=dict(tally.faults.most_common()),
        most_in_flight=tally.most_in_flight,
        connections_opened=pool.opened,
        generator_cores=generator_cores,
        server=watch,
        health=health,
        slow_upload_endings=dict(endings),
        summary=summarise(tally.exchanges, duration_seconds, limits.target_seconds),
    )


async def _carry_out(
    pool: ConnectionPool, load: OpenLoop, calls: Sequence[Call], slow: SlowUploads | None
) -> Counter[str]:
    progress = asyncio.create_task(show_progress(load.tally, len(calls)))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(calls))
            dripping = (
                group.create_task(drip(pool.origin, slow.number, slow.start_seconds, slow.duration_seconds))
                if slow
                else None
            )
    finally:
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)
    return dripping.result() if dripping else Counter()


async def warm_up(pool: ConnectionPool, requests: Sequence[bytes]) -> None:
    """A few requests that do not count, one after the other."""
    for call in calls_in_turn([0.0] * WARM_UP_REQUESTS, requests):
        await OpenLoop(pool, give_up_seconds=WARM_UP_GIVE_UP_SECONDS, in_flight_limit=1).run([call])


def allow_descriptors(number: int) -> None:
    """Raise this process's limit of open files to `number` where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
