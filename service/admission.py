"""Who may come in: a ledger of the work inside, and what it says of the finish of one more request.

predicted seconds = (work inside with no later deadline / workers + the request's own work) * correction

The work is estimated from measured service times (`service_times`); the correction is a moving average of actual over
predicted and catches whatever those do not know: the event loop, other processes on the machine.

Refusals come in phases, not at random: a phase begins when the work inside would take 0.6 of the deadline, and ends
when it has drained to 0.12 of it. `Retry-After` names that end, so a caller who honours it meets an open door, and the
workers never run dry meanwhile. A request that cannot make a shorter deadline of its own, or is slow by itself, is
refused alone.

Nothing here waits or starts a timer; for one event loop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from service.errors import OverloadedError
from service.service_times import Cost

# Shares of the deadline. Predictions that are 1.6 times too low are still kept; a queue of 0.12 keeps every core busy.
_PHASE_BEGINS = 0.6
_PHASE_ENDS = 0.12
_ALONE = 0.8
# Weight of the newest observation in the correction. Those who waited together say the same: of one bad moment, in
# which the whole process stood still, all of them would tell. So it listens to one answer in a while.
_SMOOTHING = 0.02
_LISTENS_EVERY_SECONDS = 0.05
_CORRECTIONS = (0.5, 4.0)
# A prediction below this is mostly overhead of one request: it tells nothing of the pace of the queue.
_TELLING_SECONDS = 0.1


class AdmissionObserver(Protocol):
    """What admission reports; the metrics implement it."""

    def finish_predicted(self, actual_over_predicted: float) -> None:
        """A request finished, so much later (or earlier) than it was predicted to."""

    def refusing_changed(self, refusing: bool) -> None:
        """A phase of refusing begins or ends."""


@dataclass(eq=False)
class Work:
    """One request's place in the ledger: expected seconds, and when it came."""

    cost: Cost
    deadline: float
    entered: float
    uncorrected_seconds: float
    predicted_seconds: float


class Admission:
    """The ledger. `clock` gives seconds; `deadline_seconds` is the longest that any request may have."""

    def __init__(
        self, clock: Callable[[], float], observer: AdmissionObserver, *, workers: int, deadline_seconds: float
    ) -> None:
        self._clock, self._observer = clock, observer
        self._workers, self._deadline_seconds = workers, deadline_seconds
        self._inside: set[Work] = set()
        self._line_seconds = self._slow_seconds = 0.0  # sums over those inside
        self._latest_deadline = 0.0
        self._correction = 1.0
        self._listens_from = 0.0
        self._refusing = False

    @property
    def refusing(self) -> bool:
        """Whether a phase of refusing lasts. Busy, not broken."""
        return self._refusing

    @property
    def backlog_seconds(self) -> float:
        """When a worker would take a picture that joins the end of the line now."""
        return self._line_seconds / self._workers * self._correction

    def at_the_door(self, cost: Cost, allowed_seconds: float) -> None:
        """The first check, before the body is read: holds nothing yet. Raises OverloadedError."""
        if self._refusing:
            wait = self.backlog_seconds - _PHASE_ENDS * self._deadline_seconds
            raise OverloadedError("the service is busy and would answer too late", wait, reason="backlog")
        self._refuse_alone(self._seconds(cost, self._clock() + allowed_seconds), allowed_seconds)

    @contextmanager
    def enter(self, cost: Cost, deadline: float) -> Iterator[Work]:
        """The second check, when the body is there, and a place for as long as the context is open.

        A phase that began meanwhile is not held against a caller who has uploaded. Raises OverloadedError.
        """
        now = self._clock()
        uncorrected = self._seconds(cost, deadline)
        self._refuse_alone(uncorrected, deadline - now)
        work = Work(cost, deadline, now, uncorrected, uncorrected * self._correction)
        self._inside.add(work)
        self._line_seconds += cost.line_seconds
        self._slow_seconds += cost.slow_seconds
        self._latest_deadline = max(self._latest_deadline, deadline)
        self._update_phase()
        try:
            yield work
        finally:
            self._leave(work)

    def finished(self, work: Work) -> None:
        """Its answer is there, or its deadline has passed: what was predicted is held against what came."""
        now = self._clock()
        actual = now - work.entered
        self._observer.finish_predicted(actual / work.predicted_seconds)
        is_telling = work.uncorrected_seconds >= _TELLING_SECONDS and not work.cost.slow_seconds
        if is_telling and now >= self._listens_from:
            self._listens_from = now + _LISTENS_EVERY_SECONDS
            low, high = _CORRECTIONS
            ratio = min(max(actual / work.uncorrected_seconds, low), high)
            self._correction += _SMOOTHING * (ratio - self._correction)

    def _leave(self, work: Work) -> None:
        self._inside.discard(work)
        self._line_seconds -= work.cost.line_seconds
        self._slow_seconds -= work.cost.slow_seconds
        if not self._inside:  # ends the rounding errors of many sums
            self._line_seconds = self._slow_seconds = self._latest_deadline = 0.0
        self._update_phase()

    def _refuse_alone(self, uncorrected_seconds: float, allowed_seconds: float) -> None:
        """An idle service tries whatever it believes: estimates of a bad moment never lock everyone out."""
        late = uncorrected_seconds * self._correction - _ALONE * allowed_seconds
        if self._inside and late > 0:
            raise OverloadedError("this request would be answered too late", late, reason="own_deadline")

    def _seconds(self, cost: Cost, deadline: float) -> float:
        """Until a request with this deadline would be finished, before correction."""
        if deadline >= self._latest_deadline:
            ahead = self._line_seconds
        else:  # some of those inside will be overtaken
            ahead = sum(work.cost.line_seconds for work in self._inside if work.deadline <= deadline)
        in_line = ahead / self._workers
        if cost.slow_seconds:  # its way to the line may be longer than the line
            in_line = max(in_line, self._slow_seconds + cost.slow_seconds)
        return in_line + cost.line_seconds

    def _update_phase(self) -> None:
        share = _PHASE_ENDS if self._refusing else _PHASE_BEGINS
        refusing = self.backlog_seconds > share * self._deadline_seconds
        if refusing != self._refusing:
            self._refusing = refusing
            self._observer.refusing_changed(refusing)
