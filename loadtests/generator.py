"""The open loop: requests leave when they are due, however late the answers to earlier ones are.

Latency counts from the moment a request was due, not from the moment it left: a caller who had to wait for us waited
too (leaving this out is known as coordinated omission).
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from loadtests.answers import (
    ANSWERED,
    CONNECTION_FAILED,
    REFUSED,
    SENT_TOO_LATE,
    TIMEOUT,
    TOO_MANY_IN_FLIGHT,
    WRONG_ANSWER,
    body_fault,
    classify,
    model_of,
)
from loadtests.http_client import Answer, ConnectionPool, HttpProtocolError, Origin

PREDICTIONS = "/v1/predictions"
DEADLINE_HEADER = "X-Timeout-Seconds"
BODIES_CHECKED = 200
LEAD_SECONDS = 0.1  # between the start of the clock and the first possible request


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of the schedule and what became of it."""

    due_seconds: float  # since the start of the run
    lag_seconds: float  # how late it left
    latency_seconds: float  # from the moment it was due until its whole answer, or its failure, was there
    kind: str  # a word of loadtests.answers

    @property
    def finished_seconds(self) -> float:
        """When it ended, in seconds since the start of the run."""
        return self.due_seconds + self.latency_seconds

    @property
    def is_reply(self) -> bool:
        """Whether the service answered at all, with whatever status."""
        return self.kind not in (TIMEOUT, CONNECTION_FAILED, TOO_MANY_IN_FLIGHT, SENT_TOO_LATE)


@dataclass(slots=True)
class Tally:
    """A run as it goes on; the progress line reads it."""

    exchanges: list[Exchange] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)  # how many exchanges ended in which way
    latencies_seconds: "array[float]" = field(default_factory=lambda: array("d"))  # of answers and refusals
    faults: Counter[str] = field(default_factory=Counter)  # why an exchange is an error, in words
    sent: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    model: str = "unknown"

    @property
    def errors(self) -> int:
        """How many exchanges ended neither with an answer nor with a proper refusal."""
        return self.kinds.total() - self.kinds[ANSWERED] - self.kinds[REFUSED]

    def p99_seconds(self) -> float:
        """99th percentile of the latencies so far, 0 before the first answer."""
        return float(np.percentile(self.latencies_seconds, 99)) if self.latencies_seconds else 0.0

    def add(self, exchange: Exchange, fault: str) -> None:
        """Write one exchange down; `fault` says in words what was wrong, or is empty."""
        self.exchanges.append(exchange)
        self.kinds[exchange.kind] += 1
        if exchange.kind in (ANSWERED, REFUSED):
            self.latencies_seconds.append(exchange.latency_seconds)
        if fault:
            self.faults[f"{exchange.kind}: {fault}"] += 1


def prediction_requests(
    origin: Origin, pictures: Sequence[bytes], deadline_seconds: float | None
) -> list[tuple[bytes, bytes]]:
    """Head and body of a request for every picture."""
    headers = {"Content-Type": "image/jpeg"}
    if deadline_seconds is not None:
        headers[DEADLINE_HEADER] = f"{deadline_seconds:g}"
    return [(origin.head("POST", PREDICTIONS, headers, len(picture)), picture) for picture in pictures]


class OpenLoop:
    """Sends a schedule of requests and writes down what became of each one in `tally`."""

    def __init__(
        self,
        pool: ConnectionPool,
        requests: Sequence[tuple[bytes, bytes]],
        *,
        give_up_seconds: float,
        in_flight_limit: int,
    ) -> None:
        self.tally = Tally()
        self._pool = pool
        self._requests = requests
        self._give_up_seconds = give_up_seconds
        self._in_flight_limit = in_flight_limit
        self._start_seconds = 0.0  # on the event loop's clock

    async def run(self, due_seconds: npt.NDArray[np.float64]) -> None:
        """Send everything and wait for the last answer, `give_up_seconds` after it was due at the latest."""
        loop = asyncio.get_running_loop()
        self._start_seconds = loop.time() + LEAD_SECONDS
        checked = set(np.linspace(0, len(due_seconds) - 1, BODIES_CHECKED).astype(int).tolist())
        async with asyncio.TaskGroup() as group:
            for index, due in enumerate(due_seconds.tolist()):
                # sleep(0) when late: answers must be read even while we catch up
                await asyncio.sleep(max(0.0, self._start_seconds + due - loop.time()))
                if self.tally.in_flight >= self._in_flight_limit:
                    self._write_down(due, self._now_seconds() - due, TOO_MANY_IN_FLIGHT, "the client's own limit")
                    continue
                self.tally.in_flight += 1
                self.tally.most_in_flight = max(self.tally.most_in_flight, self.tally.in_flight)
                group.create_task(self._send(index, due, check_body=index in checked))

    async def _send(self, index: int, due_seconds: float, *, check_body: bool) -> None:
        lag_seconds = self._now_seconds() - due_seconds
        self.tally.sent += 1
        fault = ""
        try:
            async with asyncio.timeout_at(self._start_seconds + due_seconds + self._give_up_seconds):
                answer = await self._pool.send(*self._requests[index % len(self._requests)])
            kind = classify(answer)
        except TimeoutError:  # before OSError, which it is too
            kind = TIMEOUT if lag_seconds < self._give_up_seconds else SENT_TOO_LATE
            fault = f"no answer within {self._give_up_seconds:g} s of when it was due"
        except (OSError, HttpProtocolError) as error:
            kind, fault = CONNECTION_FAILED, f"{type(error).__name__}: {error}"
        else:
            if check_body and kind == ANSWERED:
                kind, fault = self._check(answer)
        finally:
            self.tally.in_flight -= 1
        self._write_down(due_seconds, lag_seconds, kind, fault)

    def _check(self, answer: Answer) -> tuple[str, str]:
        self.tally.model = model_of(answer.body)
        fault = body_fault(answer.body)
        return (ANSWERED, "") if fault is None else (WRONG_ANSWER, fault)

    def _write_down(self, due_seconds: float, lag_seconds: float, kind: str, fault: str) -> None:
        latency_seconds = self._now_seconds() - due_seconds
        self.tally.add(Exchange(due_seconds, lag_seconds, latency_seconds, kind), fault)

    def _now_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._start_seconds
