"""Admission refuses what would come too late, in phases with a truthful Retry-After, and never locks everyone out."""

import heapq
import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.admission import Admission
from service.errors import OverloadedError
from service.service_times import Cost

SMALL = Cost(0.01)


class Recorder:
    """AdmissionObserver that keeps what it is told."""

    def __init__(self) -> None:
        self.ratios: list[float] = []
        self.phases: list[bool] = []

    def finish_predicted(self, actual_over_predicted: float) -> None:
        self.ratios.append(actual_over_predicted)

    def refusing_changed(self, refusing: bool) -> None:
        self.phases.append(refusing)


class Bench:
    """An admission with a clock that stands still unless it is moved."""

    def __init__(self, workers: int = 2) -> None:
        self.now = 1000.0  # a clock has run for long: what is relative to it must not be taken for absolute
        self.recorder = Recorder()
        self.admission = Admission(lambda: self.now, self.recorder, workers=workers, deadline_seconds=3.0)
        self.stack = ExitStack()

    def fill(self, cost: Cost, count: int = 1, allowed_seconds: float = 3.0) -> None:
        """Requests that stay inside until `stack` is closed."""
        for _ in range(count):
            self.stack.enter_context(self.admission.enter(cost, self.now + allowed_seconds))

    def knock(self, cost: Cost = SMALL, allowed_seconds: float = 3.0) -> OverloadedError | None:
        """What the door says."""
        try:
            self.admission.at_the_door(cost, allowed_seconds)
        except OverloadedError as refusal:
            return refusal
        return None


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.stack:
        yield made


def test_the_backlog_is_the_work_inside_shared_by_the_workers(bench: Bench) -> None:
    """Ten requests of 0.1 s each keep two workers busy for half a second."""
    bench.fill(Cost(0.1), 10)
    assert bench.admission.backlog_seconds == pytest.approx(0.5)
    bench.stack.close()
    assert bench.admission.backlog_seconds == 0


def test_a_refusing_phase_begins_at_the_high_mark_and_ends_at_the_low_one(bench: Bench) -> None:
    """Above 0.6 of the deadline all are refused, until less than 0.12 of it is left: then all come in again."""
    bench.fill(Cost(0.6))
    with ExitStack() as early:
        for _ in range(14):
            early.enter_context(bench.admission.enter(Cost(0.2), bench.now + 3.0))
        assert bench.admission.backlog_seconds == pytest.approx(1.7)
        assert bench.knock() is None
        early.enter_context(bench.admission.enter(Cost(0.4), bench.now + 3.0))
        refusal = bench.knock()
        assert refusal is not None
        assert refusal.reason == "backlog"
        assert bench.admission.refusing
    assert bench.admission.backlog_seconds == pytest.approx(0.3)
    assert bench.knock() is None
    assert bench.recorder.phases == [True, False]


def test_within_a_phase_a_shrinking_backlog_does_not_open_the_door(bench: Bench) -> None:
    """Between the marks it depends on which was passed last: a caller who waits as told is not refused at random."""
    with ExitStack() as early:
        for _ in range(15):
            early.enter_context(bench.admission.enter(Cost(0.2), bench.now + 3.0))
        bench.fill(Cost(0.5), 2)
        assert bench.knock() is not None
    assert bench.admission.backlog_seconds == pytest.approx(0.5)
    assert bench.knock() is not None


def test_retry_after_is_the_time_until_the_low_mark(bench: Bench) -> None:
    """3.2 s of work left, 0.36 s of them as a reserve: 2.84 s, in whole seconds 3."""
    bench.fill(Cost(6.4))
    refusal = bench.knock()
    assert refusal is not None
    assert refusal.headers == {"Retry-After": "3"}


def test_a_shorter_deadline_that_cannot_be_kept_is_refused_alone(bench: Bench) -> None:
    """No phase begins: others come in."""
    bench.fill(Cost(0.02), 6, allowed_seconds=0.1)
    refusal = bench.knock(Cost(0.05), allowed_seconds=0.1)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_seconds) == ("own_deadline", 1)
    assert bench.knock() is None
    assert not bench.admission.refusing


def test_a_shorter_deadline_overtakes_the_later_ones(bench: Bench) -> None:
    """Work with a later deadline does not stand before it."""
    with bench.admission.enter(Cost(2.0), bench.now + 3.0), bench.admission.enter(SMALL, bench.now + 0.5) as work:
        assert work.predicted_seconds == pytest.approx(0.01)


def test_the_second_check_goes_by_the_picture_and_not_by_the_phase(bench: Bench) -> None:
    """Whoever has uploaded comes in during a phase, unless the picture turns out to be too much work."""
    bench.fill(Cost(4.0))
    assert bench.knock() is not None
    with bench.admission.enter(SMALL, bench.now + 3.0):
        pass
    with pytest.raises(OverloadedError, match="too late"), bench.admission.enter(Cost(0.5), bench.now + 3.0):
        pass


def test_slow_pictures_wait_for_their_lane_and_not_for_the_workers(bench: Bench) -> None:
    """A full slow lane refuses slow pictures; small ones are predicted as if it were empty."""
    bench.fill(Cost(0.01, slow_seconds=1.0), 2)
    refusal = bench.knock(Cost(0.01, slow_seconds=1.0))
    assert refusal is not None
    assert refusal.reason == "own_deadline"
    with bench.admission.enter(SMALL, bench.now + 3.0) as work:
        assert work.predicted_seconds < 0.05


def test_the_slow_lane_is_free_again_when_its_picture_is_done(bench: Bench) -> None:
    """While others are still in line."""
    bench.fill(SMALL)
    slow = Cost(0.01, slow_seconds=2.0)
    with bench.admission.enter(slow, bench.now + 3.0):
        assert bench.knock(slow) is not None
    assert bench.knock(slow) is None


def test_an_idle_service_admits_whatever_it_believes(bench: Bench) -> None:
    """An estimate of a bad moment never locks everyone out."""
    assert bench.knock(Cost(100.0)) is None
    with bench.admission.enter(Cost(100.0), bench.now + 3.0):
        pass


def test_a_place_is_freed_when_the_request_fails(bench: Bench) -> None:
    """Whatever happens inside."""
    with pytest.raises(ValueError, match="inside"), bench.admission.enter(Cost(1.0), bench.now + 3.0):
        raise ValueError("inside")
    assert bench.admission.backlog_seconds == 0


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 2.0), (0.8, 0.8), (50.0, 4.0), (0.01, 0.5)])
def test_the_correction_follows_actual_over_predicted(bench: Bench, factor: float, expected: float) -> None:
    """Answers that take twice as long as predicted double the predictions, within bounds; the ratio is reported."""
    for _ in range(500):
        with bench.admission.enter(Cost(0.2), bench.now + 3) as work:
            bench.now += 0.2 * factor
            bench.admission.finished(work)
        bench.now += 0.1  # answers of one moment count once
    assert bench.recorder.ratios[0] == pytest.approx(factor)
    with bench.admission.enter(Cost(0.2), bench.now + 3) as work:
        assert work.predicted_seconds == pytest.approx(0.2 * expected, rel=0.05)


def test_what_is_too_late_is_judged_by_the_corrected_time(bench: Bench) -> None:
    """On a machine that needs twice as long as believed, 0.25 s of work do not fit into half a second's 0.4."""
    for _ in range(500):
        with bench.admission.enter(Cost(0.2), bench.now + 3.0) as work:
            bench.now += 0.4
            bench.admission.finished(work)
    bench.fill(SMALL)
    assert bench.knock(Cost(0.15), allowed_seconds=0.5) is None
    assert bench.knock(Cost(0.25), allowed_seconds=0.5) is not None


def test_answers_of_an_idle_service_correct_nothing(bench: Bench) -> None:
    """A lone small request is mostly overhead: it tells nothing of the pace of a queue."""
    for _ in range(100):
        with bench.admission.enter(SMALL, bench.now + 3) as work:
            bench.now += 0.05
            bench.admission.finished(work)
    bench.fill(Cost(1.0))
    assert bench.admission.backlog_seconds == pytest.approx(0.5)


class Day:
    """Poisson arrivals at a multiple of what two workers can do, in virtual time; estimates are off by `error`."""

    SERVICE_SECONDS = 0.008

    def __init__(self, load: float, error: float, seed: int = 1) -> None:
        self.bench, self.random = Bench(), random.Random(seed)
        self.load, self.error = load, error
        self.free_at = [0.0, 0.0]
        self.leaving: list[tuple[float, int, ExitStack, float, object]] = []
        self.retries: list[float] = []
        self.answered = self.refused = self.retried = self.retried_well = 0
        self.slowest = 0.0

    def run(self, seconds: float) -> None:
        bench = self.bench
        arrival, seconds = bench.now, bench.now + seconds
        while arrival < seconds:
            arrival += self.random.expovariate(self.load * 2 / self.SERVICE_SECONDS)
            while self.retries and self.retries[0] <= arrival:
                again = heapq.heappop(self.retries)
                self.leave_until(again)
                self.retried += 1
                self.retried_well += self.arrive(again) is None
            self.leave_until(arrival)
            refusal = self.arrive(arrival)
            if refusal is not None:
                self.refused += 1
                if self.random.random() < 0.1:
                    heapq.heappush(self.retries, bench.now + refusal.retry_after_seconds)

    def stand_still(self, seconds: float) -> None:
        """Nobody is answered meanwhile, and it is nobody's fault: the machine was taken away."""
        self.free_at = [max(free_at, self.bench.now) + seconds for free_at in self.free_at]

    def arrive(self, now: float) -> OverloadedError | None:
        bench = self.bench
        bench.now = now
        cost = Cost(self.SERVICE_SECONDS * self.error)
        refusal = bench.knock(cost)
        if refusal is None:
            stack = ExitStack()
            work = stack.enter_context(bench.admission.enter(cost, now + 3))
            finish = max(now, heapq.heappop(self.free_at)) + self.SERVICE_SECONDS
            heapq.heappush(self.free_at, finish)
            heapq.heappush(self.leaving, (finish, id(stack), stack, now, work))
        return refusal

    def leave_until(self, now: float) -> None:
        while self.leaving and self.leaving[0][0] <= now:
            finish, _, stack, arrived, work = heapq.heappop(self.leaving)
            self.bench.now = finish
            self.bench.admission.finished(work)  # type: ignore[arg-type]
            stack.close()
            self.answered += 1
            self.slowest = max(self.slowest, finish - arrived)


@pytest.mark.parametrize("error", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("load", [1.2, 2.0, 4.0])
def test_overload_keeps_the_workers_busy_and_the_promise(load: float, error: float) -> None:
    """At 1.2 to 4 times the capacity, with estimates half and twice as long: 95 % of it is answered, all in time."""
    day = Day(load, error)
    day.run(40.0)
    assert day.answered >= 0.95 * 40.0 * 2 / Day.SERVICE_SECONDS
    assert day.slowest <= 3.0


@pytest.mark.parametrize("load", [0.5, 0.7, 0.8])
@pytest.mark.parametrize("still_seconds", [0.5, 1.0, 1.5])
def test_a_moment_of_standing_still_turns_nobody_away(load: float, still_seconds: float) -> None:
    """All who waited through it tell of the same moment: those who come after it are answered in time, not refused."""
    day = Day(load, 1.0)
    for _ in range(5):
        day.run(10.0)
        day.stand_still(still_seconds)
    day.run(10.0)
    assert day.refused == 0
    assert day.slowest <= 3.0


def test_a_caller_who_honours_retry_after_comes_in() -> None:
    """At 1.2 times the capacity nine of ten first retries succeed."""
    day = Day(1.2, 1.0)
    day.run(120.0)
    assert day.retried > 50
    assert day.retried_well >= 0.9 * day.retried
