"""One load test from beginning to end: ready service -> capacity -> open loop -> figures -> verdict."""

import asyncio
import contextlib
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from loadtests.arrivals import schedule
from loadtests.capacity import Capacity, measure_capacity
from loadtests.generator import Exchange, OpenLoop, prediction_requests
from loadtests.http_client import ConnectionPool, Origin
from loadtests.options import Options
from loadtests.pictures import make_pictures
from loadtests.progress import show_progress
from loadtests.server_metrics import ServerCount, ServerWatch, server_count, watched_server
from loadtests.service_process import ServiceUnavailableError, check_ready, started_service
from loadtests.summary import Summary, summarise
from loadtests.verdict import Memory, Verdict, judge

WARM_UP_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one load test found."""

    options: Options
    started_at: str  # ISO 8601, UTC
    machine: str
    url: str
    model: str
    picture_bytes: tuple[int, ...]
    rate_per_second: float
    capacity: Capacity | None
    exchanges: Sequence[Exchange]
    faults: dict[str, int]
    most_in_flight: int
    connections_opened: int
    generator_cores: float  # processor seconds a second that the generator used
    service_cores: float | None
    memory: Memory | None
    memory_seconds_bytes: Sequence[tuple[float, float]]
    server_count: ServerCount | None
    summary: Summary
    verdict: Verdict


async def run_load_test(options: Options) -> Result:
    """Measure the service the options name; raises ServiceUnavailableError."""
    allow_descriptors(options.in_flight_limit + 100)
    async with ready_service(options) as origin:
        pool = ConnectionPool(origin)
        pictures = make_pictures(options.pictures, options.seed)
        requests = prediction_requests(origin, pictures, options.deadline_seconds)
        try:
            await warm_up(pool, requests)
            capacity = await find_capacity(pool, requests, options)
            rate = options.rate_per_second or (capacity.answers_per_second * options.share if capacity else 0.0)
            return await measure(pool, requests, options, rate, capacity)
        finally:
            pool.close()


@contextlib.asynccontextmanager
async def ready_service(options: Options) -> AsyncIterator[Origin]:
    """The service to measure, ours or the one at the given URL, once it says that it is ready."""
    if options.start_service:
        async with started_service(options.report_folder / "service.log") as origin:
            yield origin
    else:
        origin = Origin(options.url)
        await check_ready(origin)
        yield origin


async def warm_up(pool: ConnectionPool, requests: Sequence[tuple[bytes, bytes]]) -> None:
    """A few requests that do not count, one after the other."""
    loop = OpenLoop(pool, requests, give_up_seconds=15.0, in_flight_limit=1)
    await loop.run(schedule("constant", 1000.0, WARM_UP_REQUESTS / 1000.0, seed=0))


async def find_capacity(
    pool: ConnectionPool, requests: Sequence[tuple[bytes, bytes]], options: Options
) -> Capacity | None:
    """The service's capacity when the rate depends on it; raises ServiceUnavailableError when it answers nothing."""
    if options.rate_per_second is not None:
        return None
    print(f"Measuring the capacity with {options.capacity_clients} clients ...", file=sys.stderr)  # noqa: T201
    capacity = await measure_capacity(
        pool, requests, clients=options.capacity_clients, seconds=options.capacity_seconds
    )
    if capacity.answers_per_second == 0:
        raise ServiceUnavailableError(f"{pool.origin.url} answered no prediction: {capacity.failures} requests failed")
    return capacity


async def measure(
    pool: ConnectionPool,
    requests: Sequence[tuple[bytes, bytes]],
    options: Options,
    rate_per_second: float,
    capacity: Capacity | None,
) -> Result:
    """The run itself, at a known rate."""
    due_seconds = schedule(options.arrivals, rate_per_second, options.duration_seconds, options.seed)
    load = OpenLoop(pool, requests, give_up_seconds=options.give_up_seconds, in_flight_limit=options.in_flight_limit)
    started_at = datetime.now(UTC)
    gc.freeze()  # pictures and modules stay: collections during the run need not look at them
    cpu_seconds, wall_seconds = time.process_time(), time.perf_counter()
    async with watched_server(pool.origin) as watch:
        progress = asyncio.create_task(show_progress(load.tally, len(due_seconds)))
        await load.run(due_seconds)
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)
    generator_cores = (time.process_time() - cpu_seconds) / (time.perf_counter() - wall_seconds)
    summary = summarise(load.tally.exchanges, options.duration_seconds, options.target_seconds)
    memory = memory_of(watch)
    return Result(
        options=options,
        started_at=started_at.isoformat(timespec="seconds"),
        machine=f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        url=pool.origin.url,
        model=load.tally.model,
        picture_bytes=tuple(len(body) for _, body in requests),
        rate_per_second=rate_per_second,
        capacity=capacity,
        exchanges=load.tally.exchanges,
        faults=dict(load.tally.faults.most_common()),
        most_in_flight=load.tally.most_in_flight,
        connections_opened=pool.opened,
        generator_cores=generator_cores,
        service_cores=watch.cores_used,
        memory=memory,
        memory_seconds_bytes=watch.memory,
        server_count=server_count(watch.first, watch.last, options.target_seconds),
        summary=summary,
        verdict=judge(
            summary,
            target_seconds=options.target_seconds,
            expect_refusals=options.expect_refusals,
            memory=memory,
            memory_growth_limit_mib=options.memory_growth_limit_mib,
        ),
    )


def memory_of(watch: ServerWatch) -> Memory | None:
    """Memory before, at its highest and after; None when the service does not tell."""
    readings = [memory_bytes for _, memory_bytes in watch.memory]
    return Memory(readings[0], max(readings), readings[-1]) if readings else None


def allow_descriptors(number: int) -> None:
    """Raise this process's limit of open files to `number` where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
