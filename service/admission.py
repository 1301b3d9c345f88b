"""Who may come in: a request whose predicted finish misses its deadline is refused at once, before its body is read.

The prediction is the observed pace: while the service is busy, the time between two finished requests, averaged.
With n requests inside, a new one finishes after about (n + 1) of those. This holds however the time is spent
(decoding, network, other processes on the machine), so nothing has to be modelled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import OverloadedError

# Share of the deadline that a prediction may fill: predictions that are 1.6 times too low are still kept, and a queue
# this long keeps every core busy all the same.
_MARGIN = 0.6
# Weight of the newest observation in the average. Answers finish in bursts, a batch at a time: with 0.05 the average
# swung with each burst, and at twice the capacity 1 % of the admitted requests came too late.
_SMOOTHING = 0.02


class Admission:
    """Counts requests and bytes inside. For one event loop; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], initial_pace_seconds: float, bytes_limit: int) -> None:
        self._clock = clock
        self._pace_seconds = initial_pace_seconds
        self._bytes_limit = bytes_limit
        self._last_finish: float | None = None
        self.requests_in_flight = 0
        self.bytes_in_flight = 0

    @contextmanager
    def admit(self, deadline_seconds: float, body_bytes: int) -> Iterator[None]:
        """Hold a place for one request of up to `body_bytes` while the context is open. Raises OverloadedError."""
        predicted = self.predicted_seconds()
        if self.requests_in_flight and predicted > deadline_seconds * _MARGIN:
            wait = predicted - deadline_seconds * _MARGIN
            raise OverloadedError("the service is busy and would answer too late", retry_after_seconds=wait)
        if self.bytes_in_flight + body_bytes > self._bytes_limit and self.requests_in_flight:
            raise OverloadedError("too many large pictures are being uploaded", retry_after_seconds=predicted)
        self.requests_in_flight += 1
        self.bytes_in_flight += body_bytes
        try:
            yield
        finally:
            self.requests_in_flight -= 1
            self.bytes_in_flight -= body_bytes

    def predicted_seconds(self) -> float:
        """How long a request that comes now is expected to take."""
        return (self.requests_in_flight + 1) * self._pace_seconds

    def observe_finish(self, duration_seconds: float) -> None:
        """One request was answered with a result after `duration_seconds` (its place is still held)."""
        now = self._clock()
        # Only a busy stretch shows the pace: with nobody waiting, the gap is the callers' and not the service's.
        if self._last_finish is not None and self.requests_in_flight > 1:
            self._pace_seconds += _SMOOTHING * (now - self._last_finish - self._pace_seconds)
        self._last_finish = now if self.requests_in_flight > 1 else None
        # No pace is slower than one whole request: this ends the memory of a bad moment.
        self._pace_seconds = min(self._pace_seconds, duration_seconds)
