"""The load of a scenario, phase by phase, and the calls that it is made of."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from loadtests.arrivals import poisson_arrivals
from loadtests.generator import Call
from loadtests.pictures import Kind

LEAVER, RETRIER, LARGE = "leaver", "retrier", "large"  # roles of callers
# Shorter than the line is under overload: nearly all leave while they are queued
LEAST_PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 0.02, 0.15


@dataclass(frozen=True, slots=True)
class Phase:
    """Poisson arrivals at a share of the service's capacity C."""

    name: str
    share: float  # of C
    seconds: float
    leaving_share: float = 0.0  # of callers who leave after a random wait
    retrying_share: float = 0.0  # of callers who come back when refused, as Retry-After says
    retry_limit: int = 1
    mixed: bool = False  # pictures of all kinds instead of the standard one
    slow_uploaders: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """When a phase was, in seconds since the start of the run."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Requests:
    """Ready to send."""

    standard: Sequence[bytes]
    mixed: Mapping[Kind, Sequence[bytes]]


def scaled(phases: Sequence[Phase], duration_scale: float) -> list[Phase]:
    """The same phases, longer or shorter."""
    return [replace(phase, seconds=phase.seconds * duration_scale) for phase in phases]


def spans_of(phases: Sequence[Phase]) -> dict[str, Span]:
    """When each phase is, by its name."""
    spans, start = {}, 0.0
    for phase in phases:
        spans[phase.name] = Span(start, start + phase.seconds)
        start += phase.seconds
    return spans


def calls_of(phases: Sequence[Phase], capacity_per_second: float, requests: Requests, seed: int) -> list[Call]:
    """The whole schedule, in the order of its due times; the same for the same seed."""
    calls = []
    for number, (phase, span) in enumerate(zip(phases, spans_of(phases).values(), strict=True)):
        chance = random.Random(f"{seed} {phase.name}")  # noqa: S311 - a load's chance needs no secrecy
        due_seconds = poisson_arrivals(phase.share * capacity_per_second, phase.seconds, seed + number)
        calls += [_call(phase, span.start + float(due), requests, chance) for due in due_seconds]
    return calls


def _call(phase: Phase, due_seconds: float, requests: Requests, chance: random.Random) -> Call:
    if phase.mixed:
        kind = chance.choices(list(requests.mixed), [kind.share for kind in requests.mixed])[0]
        return Call(due_seconds, chance.choice(requests.mixed[kind]), phase.name, "" if kind.is_small else LARGE)
    call = Call(due_seconds, chance.choice(requests.standard), phase.name)
    if chance.random() < phase.leaving_share:
        return replace(
            call, role=LEAVER, patience_seconds=chance.uniform(LEAST_PATIENCE_SECONDS, MOST_PATIENCE_SECONDS)
        )
    if chance.random() < phase.retrying_share:
        return replace(call, role=RETRIER, retry_limit=phase.retry_limit)
    return call
