"""Admission refuses what would come too late, and forgets a bad moment."""

import pytest

from service.admission import Admission
from service.errors import OverloadedError


def admission(pace: float = 0.1, bytes_limit: int = 10**9) -> tuple[Admission, list[float]]:
    now = [0.0]
    return Admission(lambda: now[0], pace, bytes_limit), now


def test_a_request_that_would_be_late_is_refused_with_the_wait() -> None:
    """With 16 inside at a pace of 0.11 s, a 3-second deadline (less its margin) cannot be kept."""
    subject, _ = admission(pace=0.11)
    places = [subject.admit(3.0, 0) for _ in range(16)]
    for place in places:
        place.__enter__()
    with pytest.raises(OverloadedError) as refused, subject.admit(3.0, 0):
        pass
    assert refused.value.headers["Retry-After"] == "1"
    with pytest.raises(OverloadedError) as refused, subject.admit(0.1, 0):
        pass
    assert refused.value.headers["Retry-After"] == "2"


def test_an_idle_service_admits_whatever_it_believes() -> None:
    """A pace learnt in a bad moment never locks everyone out."""
    subject, _ = admission(pace=100.0)
    with subject.admit(3.0, 0):
        assert subject.requests_in_flight == 1


def test_one_fast_answer_ends_the_memory_of_a_bad_moment() -> None:
    """The pace is never slower than a whole request."""
    subject, now = admission(pace=100.0)
    with subject.admit(3.0, 0):
        now[0] = 0.05
        subject.observe_finish(0.05)
    assert subject.predicted_seconds() <= 0.05


def test_the_pace_follows_what_is_observed() -> None:
    """Answers every 0.2 s in a busy stretch lead the prediction there."""
    subject, now = admission(pace=0.01)
    with subject.admit(9, 0), subject.admit(9, 0):
        for _ in range(200):
            now[0] += 0.2
            subject.observe_finish(0.4)
    assert subject.predicted_seconds() == pytest.approx(0.2, rel=0.05)


def test_a_place_is_freed_when_the_request_fails() -> None:
    """Places and bytes come back whatever happens inside."""
    subject, _ = admission()
    with pytest.raises(ValueError, match="inside"), subject.admit(3, 1000):
        raise ValueError("inside")
    assert (subject.requests_in_flight, subject.bytes_in_flight) == (0, 0)


def test_bytes_in_flight_are_bounded() -> None:
    """A second large upload waits outside; a lone one always comes in."""
    subject, _ = admission(bytes_limit=100)
    with subject.admit(3, 90), pytest.raises(OverloadedError, match="large pictures"), subject.admit(3, 20):
        pass
    with subject.admit(3, 200):
        pass
