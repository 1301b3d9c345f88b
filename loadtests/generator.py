"""The open loop: requests leave when they are due, however late the answers to earlier ones are.

Latency counts from the moment a request was due, not from the moment it left: a caller who had to wait for us waited
too (leaving this out is known as coordinated omission).
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loadtests.answers import (
    ABANDONED,
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
    retry_after_seconds,
)
from loadtests.http_client import Answer, ConnectionPool, HttpProtocolError, Origin

PREDICTIONS = "/v1/predictions"
DEADLINE_HEADER = "X-Timeout-Seconds"
BODIES_CHECKED = 200
LEAD_SECONDS = 0.1  # between the start of the clock and the first possible request


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the schedule and how its caller behaves."""

    due_seconds: float  # since the start of the run
    request: bytes  # head and body
    phase: str = ""  # of the scenario
    role: str = ""  # of the caller, where the verdict sets some apart
    patience_seconds: float | None = None  # the caller leaves this long after sending
    retry_limit: int = 0  # how often a refused caller comes back when Retry-After says so
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of the schedule and what became of it."""

    due_seconds: float  # since the start of the run
    lag_seconds: float  # how late it left
    latency_seconds: float  # from the moment it was due until its whole answer, or its failure, was there
    kind: str  # a word of loadtests.answers
    phase: str = ""
    role: str = ""
    attempt: int = 1
    retry_after_seconds: float | None = None  # what a refusal said

    @property
    def finished_seconds(self) -> float:
        """When it ended, in seconds since the start of the run."""
        return self.due_seconds + self.latency_seconds


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
        """Exchanges that ended neither with an answer, nor with a proper refusal, nor by the caller's own choice."""
        return self.kinds.total() - self.kinds[ANSWERED] - self.kinds[REFUSED] - self.kinds[ABANDONED]

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


def prediction_request(
    origin: Origin, picture: bytes, content_type: str = "image/jpeg", deadline_seconds: float | None = None
) -> bytes:
    """Head and body of a request, made once and sent often."""
    headers = {"Content-Type": content_type}
    if deadline_seconds is not None:
        headers[DEADLINE_HEADER] = f"{deadline_seconds:g}"
    return origin.head("POST", PREDICTIONS, headers, len(picture)) + picture


def calls_in_turn(due_seconds: Iterable[float], requests: Sequence[bytes]) -> list[Call]:
    """Patient callers who send the requests in turn."""
    return [Call(float(due), requests[index % len(requests)]) for index, due in enumerate(due_seconds)]


class OpenLoop:
    """Sends a schedule of requests and writes down what became of each one in `tally`."""

    def __init__(self, pool: ConnectionPool, *, give_up_seconds: float, in_flight_limit: int) -> None:
        self.tally = Tally()
        self._pool = pool
        self._give_up_seconds = give_up_seconds
        self._in_flight_limit = in_flight_limit
        self._start_seconds = 0.0  # on the event loop's clock

    async def run(self, calls: Sequence[Call]) -> None:
        """Send everything and wait for the last answer, `give_up_seconds` after it was due at the latest.

        `calls` are in the order of their due times.
        """
        loop = asyncio.get_running_loop()
        self._start_seconds = loop.time() + LEAD_SECONDS
        checked = set(np.linspace(0, len(calls) - 1, BODIES_CHECKED).astype(int).tolist())
        async with asyncio.TaskGroup() as group:
            for index, call in enumerate(calls):
                # sleep(0) when late: answers must be read even while we catch up
                await asyncio.sleep(max(0.0, self._start_seconds + call.due_seconds - loop.time()))
                group.create_task(self._converse(call, check_body=index in checked))

    async def _converse(self, call: Call, *, check_body: bool) -> None:
        """One caller: the request, and those after refusals as far as the caller comes back."""
        wait_seconds = await self._send(call, check_body=check_body)
        while wait_seconds is not None and call.attempt <= call.retry_limit:
            call = replace(call, due_seconds=self._now_seconds() + wait_seconds, attempt=call.attempt + 1)
            await asyncio.sleep(wait_seconds)
            wait_seconds = await self._send(call, check_body=False)

    async def _send(self, call: Call, *, check_body: bool) -> float | None:
        """One request, written down; returns how long a refusal asks to wait."""
        lag_seconds = self._now_seconds() - call.due_seconds
        if self.tally.in_flight >= self._in_flight_limit:
            self._write_down(call, lag_seconds, TOO_MANY_IN_FLIGHT, "the client's own limit")
            return None
        self.tally.sent += 1
        self.tally.in_flight += 1
        self.tally.most_in_flight = max(self.tally.most_in_flight, self.tally.in_flight)
        fault, wait_seconds = "", None
        try:
            async with asyncio.timeout_at(self._leaves_at(call)):
                answer = await self._pool.send(call.request)
            kind = classify(answer)
        except TimeoutError:  # before OSError, which it is too
            kind, fault = self._unanswered(call, lag_seconds)
        except (OSError, HttpProtocolError) as error:
            kind, fault = CONNECTION_FAILED, f"{type(error).__name__}: {error}"
        else:
            if check_body and kind == ANSWERED:
                kind, fault = self._check(answer)
            if kind == REFUSED:
                wait_seconds = retry_after_seconds(answer.headers["retry-after"])
        finally:
            self.tally.in_flight -= 1
        self._write_down(call, lag_seconds, kind, fault, wait_seconds)
        return wait_seconds

    def _leaves_at(self, call: Call) -> float:
        """When the caller stops waiting, on the event loop's clock."""
        gives_up = self._start_seconds + call.due_seconds + self._give_up_seconds
        if call.patience_seconds is None:
            return gives_up
        return min(gives_up, asyncio.get_running_loop().time() + call.patience_seconds)

    def _unanswered(self, call: Call, lag_seconds: float) -> tuple[str, str]:
        if lag_seconds >= self._give_up_seconds:
            return SENT_TOO_LATE, "the generator could not send it in time"
        if call.patience_seconds is not None:
            return ABANDONED, ""
        return TIMEOUT, f"no answer within {self._give_up_seconds:g} s of when it was due"

    def _check(self, answer: Answer) -> tuple[str, str]:
        self.tally.model = model_of(answer.body)
        fault = body_fault(answer.body)
        return (ANSWERED, "") if fault is None else (WRONG_ANSWER, fault)

    def _write_down(
        self, call: Call, lag_seconds: float, kind: str, fault: str, retry_after: float | None = None
    ) -> None:
        latency_seconds = self._now_seconds() - call.due_seconds
        exchange = Exchange(
            due_seconds=call.due_seconds,
            lag_seconds=lag_seconds,
            latency_seconds=latency_seconds,
            kind=kind,
            phase=call.phase,
            role=call.role,
            attempt=call.attempt,
            retry_after_seconds=retry_after,
        )
        self.tally.add(exchange, fault)

    def _now_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._start_seconds
