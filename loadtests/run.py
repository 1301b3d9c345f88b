"""One load test from beginning to end: ready service -> capacity -> open loop -> figures -> verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.arrivals import schedule
from loadtests.capacity import Capacity, required_capacity
from loadtests.generator import calls_in_turn, prediction_request
from loadtests.http_client import ConnectionPool
from loadtests.observation import Limits, Observation, allow_descriptors, observe, warm_up
from loadtests.options import Options
from loadtests.pictures import make_pictures
from loadtests.service_process import ready_service
from loadtests.verdict import Verdict, judge


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one load test found."""

    options: Options
    picture_bytes: tuple[int, ...]
    rate_per_second: float
    capacity: Capacity | None
    observation: Observation
    verdict: Verdict


async def run_load_test(options: Options) -> Result:
    """Measure the service the options name; raises ServiceUnavailableError."""
    allow_descriptors(options.in_flight_limit + 100)
    log_path = options.report_folder / "service.log"
    async with ready_service(options.url, log_path, start=options.start_service) as origin:
        pool = ConnectionPool(origin)
        pictures = make_pictures(options.pictures, options.seed)
        requests = [prediction_request(origin, p, deadline_seconds=options.deadline_seconds) for p in pictures]
        try:
            await warm_up(pool, requests)
            capacity, rate = await _rate(pool, requests, options)
            observation = await _load(pool, requests, options, rate)
        finally:
            pool.close()
    return Result(
        options=options,
        picture_bytes=tuple(len(picture) for picture in pictures),
        rate_per_second=rate,
        capacity=capacity,
        observation=observation,
        verdict=judge(
            observation.summary,
            target_seconds=options.target_seconds,
            expect_refusals=options.expect_refusals,
            memory=observation.memory,
            memory_growth_limit_mib=options.memory_growth_limit_mib,
        ),
    )


async def _rate(pool: ConnectionPool, requests: Sequence[bytes], options: Options) -> tuple[Capacity | None, float]:
    """Requests a second: as given, or a share of the capacity, which is measured for that."""
    if options.rate_per_second is not None:
        return None, options.rate_per_second
    capacity = await required_capacity(
        pool, requests, clients=options.capacity_clients, seconds=options.capacity_seconds
    )
    return capacity, capacity.answers_per_second * options.share


async def _load(
    pool: ConnectionPool, requests: Sequence[bytes], options: Options, rate_per_second: float
) -> Observation:
    due_seconds = schedule(options.arrivals, rate_per_second, options.duration_seconds, options.seed)
    limits = Limits(options.target_seconds, options.give_up_seconds, options.in_flight_limit)
    return await observe(pool, calls_in_turn(due_seconds, requests), options.duration_seconds, limits)
