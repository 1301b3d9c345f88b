"""What the head of a prediction's request says: how long its body is, and when its answer must be there.

Two headers lower the deadline; the earlier one wins:

- `X-Timeout-Seconds: 1.5`: relative, from the complete upload, as the service's own deadline.
- `X-Deadline: 2026-11-22T10:00:01.5Z` (RFC 3339) or `X-Deadline: 1795341601.5` (Unix seconds): absolute. It needs no
  clock that agrees with the service's: whatever it says, it only lowers.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.types import Scope

from service.errors import DeadlineExceededError, InvalidRequestError, PayloadTooLargeError
from service.settings import Settings

_LENGTH, _TIMEOUT, _DEADLINE, _EXPECT = b"content-length", b"x-timeout-seconds", b"x-deadline", b"expect"
_READ = {_LENGTH, _TIMEOUT, _DEADLINE, _EXPECT}


@dataclass(frozen=True)
class Arrival:
    """`at` and `latest` are times of time.monotonic; `declared_bytes` is None where the caller does not say."""

    at: float
    declared_bytes: int | None
    allowed_seconds: float
    latest: float = math.inf
    waits_for_continue: bool = False

    def deadline(self, received_at: float) -> float:
        """When the answer must be there, for a body that was complete at `received_at`."""
        return min(received_at + self.allowed_seconds, self.latest)


def read_arrival(
    scope: Scope,
    settings: Settings,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> Arrival:
    """Raises InvalidRequestError, PayloadTooLargeError, DeadlineExceededError (an absolute one that has passed)."""
    given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}
    at, allowed, latest = clock(), settings.deadline_seconds, math.inf
    if _TIMEOUT in given:
        allowed = min(allowed, _seconds(given[_TIMEOUT]))
    if _DEADLINE in given:
        latest = at + _unix_seconds(given[_DEADLINE]) - wall_clock()
        if latest <= at:
            raise DeadlineExceededError("the deadline had passed when the request came")
    return Arrival(
        at=at,
        declared_bytes=_bytes(given[_LENGTH], settings.body_limit_bytes) if _LENGTH in given else None,
        allowed_seconds=min(allowed, latest - at),
        latest=latest,
        waits_for_continue=given.get(_EXPECT, "").lower() == "100-continue",
    )


def _bytes(text: str, limit: int) -> int:
    if not text.isdecimal():
        raise InvalidRequestError("the Content-Length header is not a number")
    if int(text) > limit:
        raise PayloadTooLargeError(f"the request has {int(text)} bytes; at most {limit} are accepted")
    return int(text)


def _seconds(text: str) -> float:
    seconds = _number(text)
    if seconds is None or seconds <= 0:
        raise InvalidRequestError("X-Timeout-Seconds must be a number greater than 0")
    return seconds


def _unix_seconds(text: str) -> float:
    seconds = _number(text)
    if seconds is not None:
        return seconds
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min  # without a zone: refused below
    if moment.tzinfo is None:
        raise InvalidRequestError("X-Deadline must be a time of RFC 3339 with its zone, or Unix seconds")
    return moment.timestamp()


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
