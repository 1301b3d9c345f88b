"""One scenario from beginning to end: ready service -> capacity -> schedule -> observation -> capacity -> verdict.

The load is a share of the capacity measured before it. The promises are held against the mean of that and of the
capacity right after: a shared machine changes its speed within minutes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from loadtests.capacity import Capacity, required_capacity
from loadtests.generator import prediction_request
from loadtests.http_client import ConnectionPool, Origin
from loadtests.observation import Limits, Observation, SlowUploads, allow_descriptors, observe, warm_up
from loadtests.pictures import make_mixed_pictures, make_pictures
from loadtests.scenarios.catalogue import Scenario
from loadtests.scenarios.checks import Check, Evidence
from loadtests.scenarios.phases import Phase, Requests, calls_of, scaled, spans_of
from loadtests.service_process import ready_service
from loadtests.verdict import Verdict, doubts

GIVE_UP_SECONDS = 15.0
IN_FLIGHT_LIMIT = 10_000  # what the service lets in is its own affair; beyond this the machine is the limit
MIXED_PICTURES = 2  # of each kind: those of 12 megapixels are large


@dataclass(frozen=True, slots=True)
class ScenarioOptions:
    """The command line, checked."""

    url: str = "http://127.0.0.1:8000"
    start_service: bool = False
    capacity_per_second: float | None = None  # None: measured before each scenario
    capacity_clients: int = 8
    capacity_seconds: float = 8.0
    duration_scale: float = 1.0
    target_seconds: float = 3.0
    pictures: int = 32
    seed: int = 1
    report_folder: Path = Path("loadtest-report")


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """Everything that one scenario found."""

    scenario: Scenario
    options: ScenarioOptions
    phases: list[Phase]  # as long as they really were
    capacities: tuple[Capacity, ...]  # before and after; empty: it was given
    capacity_per_second: float  # what the promises are held against
    observation: Observation
    checks: list[Check]
    verdict: Verdict


async def run_scenario(scenario: Scenario, options: ScenarioOptions) -> ScenarioResult:
    """Carry out a scenario; raises ServiceUnavailableError."""
    allow_descriptors(IN_FLIGHT_LIMIT + 100)
    log_path = options.report_folder / scenario.name / "service.log"
    async with ready_service(options.url, log_path, start=options.start_service) as origin:
        pool = ConnectionPool(origin)
        requests = _requests(scenario, origin, options)
        try:
            await warm_up(pool, requests.standard)
            before = await _capacity(pool, requests, options)
            phases = scaled(scenario.phases, options.duration_scale)
            calls = calls_of(phases, _per_second(before, options), requests, options.seed)
            limits = Limits(options.target_seconds, GIVE_UP_SECONDS, IN_FLIGHT_LIMIT)
            seconds = sum(phase.seconds for phase in phases)
            observation = await observe(pool, calls, seconds, limits, _slow_uploads(phases))
            capacities = (*before, *await _capacity(pool, requests, options))
        finally:
            pool.close()
    capacity_per_second = _per_second(capacities, options)
    evidence = Evidence(observation, capacity_per_second, spans_of(phases))
    checks = [promise(evidence) for promise in scenario.promises]
    verdict = judge_checks(scenario, checks, observation)
    return ScenarioResult(scenario, options, phases, capacities, capacity_per_second, observation, checks, verdict)


def judge_checks(scenario: Scenario, checks: list[Check], observation: Observation) -> Verdict:
    """All promises kept, or which were not; what could not be judged is a doubt."""
    missed = tuple(f"{c.promise}: {c.found} (limit: {c.limit})" for c in checks if c.passed is False)
    unjudged = [c for c in checks if c.passed is None and c.limit != "information"]
    uncertain = [*doubts(observation.summary), *(f"Not judged: {c.promise}: {c.found}." for c in unjudged)]
    kept = sum(c.passed is True for c in checks)
    sentence = (
        f"TARGET MISSED: {scenario.name}: {'; '.join(missed)}."
        if missed
        else f"TARGET MET: {scenario.name}: all {kept} promises were kept."
    )
    return Verdict(not missed, sentence, missed, tuple(uncertain))


def _requests(scenario: Scenario, origin: Origin, options: ScenarioOptions) -> Requests:
    mixed = make_mixed_pictures(MIXED_PICTURES, options.seed) if scenario.needs_mixed_pictures else {}
    return Requests(
        standard=[prediction_request(origin, p) for p in make_pictures(options.pictures, options.seed)],
        mixed={k: [prediction_request(origin, p, k.content_type) for p in files] for k, files in mixed.items()},
    )


async def _capacity(pool: ConnectionPool, requests: Requests, options: ScenarioOptions) -> tuple[Capacity, ...]:
    """Measured, where it is not given."""
    if options.capacity_per_second is not None:
        return ()
    clients, seconds = options.capacity_clients, options.capacity_seconds
    return (await required_capacity(pool, requests.standard, clients=clients, seconds=seconds),)


def _per_second(capacities: Sequence[Capacity], options: ScenarioOptions) -> float:
    given = options.capacity_per_second
    return given if given is not None else mean(capacity.answers_per_second for capacity in capacities)


def _slow_uploads(phases: list[Phase]) -> SlowUploads | None:
    spans = spans_of(phases)
    return next(
        (SlowUploads(p.slow_uploaders, spans[p.name].start, p.seconds) for p in phases if p.slow_uploaders), None
    )
