"""Watches a run from outside and knows what the batcher may do at each moment; it trusts nothing the batcher says."""

from collections import Counter
from collections.abc import Callable, Sequence

from service.batcher import Answered
from service.errors import DeadlineExceededError, InferenceFailedError, OverloadedError, ServiceError
from tests.simulation.schedule import Caller, Nature, Schedule

Outcome = Answered[int] | BaseException


class RejectedError(ServiceError):
    """An item's own failure, known by its number."""

    status, code, title = 400, "rejected", "Rejected"

    def __init__(self, number: int) -> None:
        super().__init__(f"item {number}")
        self.number = number


class Referee:
    """The ledger of one run. `violations` holds every broken promise, `story` all that happened, with its time."""

    def __init__(self, schedule: Schedule, clock: Callable[[], float]) -> None:
        self.schedule, self._clock = schedule, clock
        self.violations: list[str] = []
        self.story: list[tuple[float, str, object]] = []
        self.batch_limit = 1  # the one that the batcher was told last
        self._accepted: dict[int, Caller] = {}
        self._urgency: dict[int, tuple[float, int]] = {}  # of those who wait in the queue
        self._handed: set[int] = set()  # to the executor, and not begun yet
        self._taken: dict[int, tuple[float, int]] = {}  # when first, and in a batch of how many last
        self._working: set[int] = set()
        self._computed: set[int] = set()
        self._departed: set[int] = set()
        self._failed_alone: set[int] = set()

    def note(self, event: str, of: object) -> None:
        """Remember for the story."""
        self.story.append((self._clock(), event, of))

    def violation(self, promise: str, of: object) -> None:
        """A promise was broken."""
        self.violations.append(promise)
        self.note(f"VIOLATION: {promise}", of)

    def arrives(self, caller: Caller) -> None:
        """The caller is about to submit."""
        self.note("arrives", caller)
        self._accepted[caller.number] = caller
        self._urgency[caller.number] = (caller.deadline, len(self._accepted))

    def departs(self, caller: Caller) -> None:
        """The caller is being cancelled, now, wherever it is."""
        number = caller.number
        if number not in self._accepted:
            place = "at the door"
        elif number in self._urgency:
            place = "queued"
        elif number in self._handed:
            place = "handed over"
        else:
            place = "running" if number in self._working else "as its outcome comes"
        self.note(f"departs {place}", number)
        self._departed.add(number)

    def hands_over(self, numbers: Sequence[int], *, ahead: bool) -> None:
        """These items go to the executor; `ahead` of time, if all its threads are busy."""
        if numbers[0] in self._urgency:
            self.note("hands over ahead" if ahead else "hands over", numbers)
            if ahead and len(self._urgency) < self.batch_limit:
                self.violation("a batch that may still grow is not handed over ahead", numbers)
            self._check_order(numbers, self._clock())
        elif not all(number in self._taken for number in numbers):
            self.violation("a retry takes nothing new", numbers)
        for number in numbers:
            self._urgency.pop(number, None)
        self._handed.update(numbers)

    def takes(self, numbers: Sequence[int], running: int) -> None:
        """These items reached `work`, one job of `running`."""
        now = self._clock()
        self.note("retries" if numbers[0] in self._taken else "takes", numbers)
        if running > self.schedule.workers:
            self.violation("never more batches at once than workers", running)
        if not self._departed.isdisjoint(numbers):
            self.violation("no work for who departed", numbers)
        if any(self._accepted[number].deadline <= now for number in numbers):
            self.violation("no work for what expired", numbers)
        if not self._computed.isdisjoint(numbers) or not self._working.isdisjoint(numbers):
            self.violation("nothing is computed twice", numbers)
        if not self._handed.issuperset(numbers):
            self.violation("a worker takes what it was handed", numbers)
        self._handed.difference_update(numbers)
        for number in numbers:
            self._taken[number] = (self._taken.get(number, (now,))[0], len(numbers))
        self._working.update(numbers)

    def returns(self, numbers: Sequence[int], cause: str | None) -> None:
        """`work` on these items is over; with a `cause` it failed for the whole batch."""
        self._working.difference_update(numbers)
        if cause is None:
            self._computed.update(numbers)
            return
        self.note(f"batch fails: {cause}", numbers)
        if len(numbers) == 1:  # nobody else can be saved: it may be told so
            self._failed_alone.update(numbers)

    def executor_refuses(self, numbers: Sequence[int]) -> None:
        """These cannot be worked on; each may be told so."""
        self.note("executor refuses", numbers)
        self._handed.difference_update(numbers)
        self._failed_alone.update(numbers)

    def ended(self, caller: Caller, outcome: Outcome) -> None:
        """The caller has its answer."""
        self._urgency.pop(caller.number, None)
        self._handed.discard(caller.number)
        kind = "answered" if isinstance(outcome, Answered) else type(outcome).__name__
        self.note(f"ends: {kind}", caller.number)
        if not self._may_end(caller, outcome):
            self.violation(f"every caller gets its own outcome, not {outcome!r}", caller)

    def time_passes(self, running: int) -> None:
        """Nothing more happens at this moment."""
        if self._urgency and running < self.schedule.workers:
            self.violation("no worker is free while somebody waits", list(self._urgency))

    def events(self) -> Counter[str]:
        """How often each kind of event happened."""
        return Counter(event for _, event, _ in self.story)

    def _check_order(self, numbers: Sequence[int], now: float) -> None:
        if len(numbers) > self.batch_limit:
            self.violation("no batch above the present limit", numbers)
        wanted = (n for n, (deadline, _) in self._urgency.items() if deadline > now and n not in self._departed)
        if list(numbers) != sorted(wanted, key=self._urgency.__getitem__)[: len(numbers)]:
            self.violation("earliest deadline first", numbers)

    def _may_end(self, caller: Caller, outcome: Outcome) -> bool:
        now, number, nature = self._clock(), caller.number, caller.nature
        match outcome:
            case Answered(result=result, queue_seconds=queued, batch_size=size):
                taken_at, taken_with = self._taken.get(number, (-1.0, -1))
                truth = (number, taken_at - caller.arrives, taken_with)
                return nature is Nature.GOOD and (result, queued, size) == truth
            case RejectedError():
                return nature is Nature.REJECTED and outcome.number == number
            case InferenceFailedError():
                deserved = nature in (Nature.BROKEN, Nature.POISON) and number in self._taken
                return deserved or number in self._failed_alone
            case DeadlineExceededError():
                return now >= caller.deadline
            case OverloadedError():
                return len(self._urgency) >= self.schedule.queue_limit  # without this caller, who is gone from it
            case _:
                return number in self._departed
