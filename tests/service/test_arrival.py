"""The head of a request says how long its body is and when its answer must be there."""

import pytest
from starlette.types import Scope

from service.arrival import Arrival, read_arrival
from service.errors import DeadlineExceededError, InvalidRequestError, PayloadTooLargeError
from service.settings import Settings

NOW, WALL = 50.0, 1795341600.0  # 2026-11-22T10:00:00Z


def arrival(**headers: str) -> Arrival:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": "http", "headers": pairs}
    return read_arrival(scope, Settings(), lambda: NOW, lambda: WALL)


def test_without_headers_the_service_decides() -> None:
    """Three seconds from the complete body, whenever that is there."""
    assert arrival().deadline(NOW + 10) == NOW + 13
    assert arrival().declared_bytes is None


def test_a_relative_deadline_runs_from_the_complete_body() -> None:
    """X-Timeout-Seconds lowers the three seconds."""
    assert arrival(x_timeout_seconds="1.5").deadline(NOW + 10) == NOW + 11.5
    assert arrival(x_timeout_seconds="100").deadline(NOW + 10) == NOW + 13


@pytest.mark.parametrize(
    "text",
    [
        "1795341602",
        "1795341602.0",
        "2026-11-22T10:00:02Z",
        "2026-11-22T11:00:02+01:00",
        "2026-11-22 10:00:02.000+00:00",
    ],
)
def test_an_absolute_deadline_is_a_moment(text: str) -> None:
    """RFC 3339 and Unix seconds say the same, whatever the upload takes."""
    assert arrival(x_deadline=text).deadline(NOW + 1) == pytest.approx(NOW + 2)
    assert arrival(x_deadline=text).allowed_seconds == pytest.approx(2)


def test_the_earlier_of_both_wins() -> None:
    """One header lowers the other's deadline, never raises it."""
    both = {"x_timeout_seconds": "1", "x_deadline": "1795341602"}
    assert arrival(**both).deadline(NOW + 0.5) == NOW + 1.5
    assert arrival(**both).deadline(NOW + 1.5) == NOW + 2


def test_a_clock_that_is_ahead_only_lowers() -> None:
    """A moment in a year's time leaves the service's own deadline."""
    assert arrival(x_deadline="2027-11-22T10:00:00Z").deadline(NOW) == NOW + 3


@pytest.mark.parametrize("text", ["1795341600", "2026-11-22T09:59:59Z", "0"])
def test_a_deadline_in_the_past_is_told_at_once(text: str) -> None:
    """504, before anything is read."""
    with pytest.raises(DeadlineExceededError):
        arrival(x_deadline=text)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        *(("x_timeout_seconds", text) for text in ("soon", "", "0", "-1", "nan", "inf")),
        *(("x_deadline", text) for text in ("soon", "", "nan", "2026-11-22T10:00:02", "10:00")),
        *(("content_length", text) for text in ("-1", "1.5", "many")),
    ],
)
def test_what_cannot_be_read_is_refused(header: str, text: str) -> None:
    """422; a time without its zone says nothing."""
    with pytest.raises(InvalidRequestError):
        arrival(**{header: text})


def test_a_body_over_the_limit_is_refused_by_its_announcement() -> None:
    """413 before a byte of it is read."""
    assert arrival(content_length="25000000").declared_bytes == 25_000_000
    with pytest.raises(PayloadTooLargeError):
        arrival(content_length="25000001")
