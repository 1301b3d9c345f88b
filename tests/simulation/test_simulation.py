"""The batcher keeps its promises in thousands of random schedules; the same simulation finds broken batchers."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from service.batcher import Batcher
from tests.simulation import mutants
from tests.simulation.run import quiet_log
from tests.simulation.simulate import simulate

SCHEDULES = 3000
SCHEDULES_TO_FIND_A_MUTANT = 1000


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_log():
        yield


def test_no_schedule_breaks_a_promise() -> None:
    """None hangs, none is misdelivered, none computed twice, whatever callers and engine do; and much does happen."""
    events: Counter[str] = Counter()
    for number in range(SCHEDULES):
        verdict = simulate(f"1:{number}")
        assert not verdict.violations, f"python -m tests.simulation --replay {verdict.seed}"
        events.update(verdict.referee.events())
    rare = {event: events[event] for event in EVENTS if events[event] < SCHEDULES / 100}
    assert not rare, "the schedules must reach every situation often"


EVENTS = (
    "hands over",
    "hands over ahead",
    "takes",
    "retries",
    "hangs",
    "executor refuses",
    "departs at the door",
    "departs queued",
    "departs handed over",
    "departs running",
    "departs as its outcome comes",
    "batch fails: poison",
    "batch fails: raises",
    "batch fails: ends thread",
    "batch fails: ends iteration",
    "batch fails: too few outcomes",
    "batch fails: too many outcomes",
    "batch fails: None for outcomes",
    "batch fails: cancelled",
    "ends: answered",
    "ends: CancelledError",
    "ends: RejectedError",
    "ends: InferenceFailedError",
    "ends: DeadlineExceededError",
    "ends: OverloadedError",
)


def test_a_seed_always_gives_the_same_run() -> None:
    """What failed once can be replayed, event by event."""
    for number in range(20):
        first, second = (simulate(f"7:{number}").referee.story for _ in range(2))
        assert first == second


@pytest.mark.parametrize(
    ("mutant", "promise"),
    [
        (mutants.Unguarded, "no caller hangs"),
        (mutants.LastInFirstOut, "earliest deadline first"),
        (mutants.WorksOnExpired, "no work for what expired"),
        (mutants.WorksOnDeparted, "no work for who departed"),
        (mutants.WorksOnDepartedAhead, "no work for who departed"),
        (mutants.SwapsResults, "every caller gets its own outcome"),
        (mutants.FailsNeighbours, "every caller gets its own outcome"),
        (mutants.ComputesAgain, "nothing is computed twice"),
        (mutants.LosesWorkers, "no worker is free while somebody waits"),
        (mutants.WaitsForCompany, "no worker is free while somebody waits"),
        (mutants.DrainsEarly, "after drain nothing is queued or running"),
    ],
)
def test_a_broken_batcher_is_found(mutant: Callable[..., Batcher[Any, Any]], promise: str) -> None:
    """Each way of breaking the batcher breaks the promise that it should, within few schedules."""
    for number in count():
        assert number < SCHEDULES_TO_FIND_A_MUTANT, "not found"
        if any(violation.startswith(promise) for violation in simulate(f"1:{number}", mutant).violations):
            break
