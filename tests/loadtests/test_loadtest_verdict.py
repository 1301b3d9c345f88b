"""Figures and verdict of a run."""

import pytest

from loadtests.answers import body_fault, is_retry_after
from loadtests.generator import Exchange
from loadtests.observation import Memory
from loadtests.pictures import make_pictures
from loadtests.summary import summarise
from loadtests.verdict import judge


def run_of(*endings, lag_seconds=0.0):
    """Exchanges due 1 s apart; an ending is (kind, latency in seconds)."""
    return [Exchange(float(due), lag_seconds, latency, kind) for due, (kind, latency) in enumerate(endings)]


def verdict_of(exchanges, **promise):
    """The verdict on these exchanges with a target of 3 s."""
    promise = {"target_seconds": 3.0, "expect_refusals": False, **promise}
    return judge(summarise(exchanges, 10.0, promise["target_seconds"]), **promise)


def test_all_answers_in_time():
    """Answers up to exactly the target meet it."""
    verdict = verdict_of(run_of(("answered", 0.1), ("answered", 3.0)))
    assert verdict.passed
    assert verdict.sentence.startswith("TARGET MET: all 2 requests were answered within 3 s")


def test_one_late_answer():
    """One answer later than the target misses it, and the verdict names the slowest."""
    verdict = verdict_of(run_of(("answered", 0.1), ("answered", 3.21)))
    assert not verdict.passed
    assert verdict.sentence == ("TARGET MISSED: 1 of 2 requests were answered later than 3 s (slowest 3.21 s).")


@pytest.mark.parametrize("kind", ["timeout", "connection_failed", "too_many_in_flight", "wrong_answer", "http_500"])
@pytest.mark.parametrize("expect_refusals", [False, True])
def test_every_error_misses_the_target(kind, expect_refusals):
    """No kind of error is ever forgiven, and the verdict names it."""
    verdict = verdict_of(run_of(("answered", 0.1), (kind, 0.1)), expect_refusals=expect_refusals)
    assert not verdict.passed
    assert f"1 of 2 requests ended in {kind}" in verdict.sentence


def test_refusals_are_failures_unless_expected():
    """A refusal misses the target in a normal run and meets it in an overload run."""
    exchanges = run_of(("answered", 0.1), ("refused", 0.01))
    assert not verdict_of(exchanges).passed
    assert verdict_of(exchanges, expect_refusals=True).passed


def test_a_late_refusal_helps_nobody():
    """A refusal later than the target misses it also in an overload run."""
    assert not verdict_of(run_of(("answered", 0.1), ("refused", 3.5)), expect_refusals=True).passed


def test_memory_must_stay_bounded_under_overload():
    """Memory that grows beyond the limit misses the target of an overload run only."""
    exchanges, memory = run_of(("answered", 0.1)), Memory(100 * 2**20, 400 * 2**20, 200 * 2**20)
    promise = {"memory": memory, "memory_growth_limit_mib": 250.0}
    assert "grew by 300 MiB" in verdict_of(exchanges, expect_refusals=True, **promise).sentence
    assert verdict_of(exchanges, **promise).passed


def test_an_empty_run_is_no_success():
    """Without a single request nothing was shown."""
    assert not verdict_of([]).passed


def test_a_late_generator_is_a_doubt():
    """A generator more than 50 ms behind its schedule at p99 is said, and does not change the verdict."""
    verdict = verdict_of(run_of(("answered", 0.1), lag_seconds=0.08))
    assert verdict.passed
    assert "fell behind its own schedule by 80 ms" in verdict.doubts[0]
    assert not verdict_of(run_of(("answered", 0.1), lag_seconds=0.04)).doubts


def test_rates_and_shares():
    """Offered counts all requests, achieved the answers, and late answers stretch the time."""
    summary = summarise(run_of(("answered", 1.0), ("answered", 18.0), ("timeout", 15.0), ("refused", 0.0)), 10.0, 3.0)
    assert summary.offered_per_second == pytest.approx(0.4)
    assert summary.achieved_per_second == pytest.approx(2 / 19)
    assert summary.share_within_target == pytest.approx(0.25)
    assert summary.errors == {"timeout": 1}
    assert (summary.p50_seconds, summary.max_seconds) == pytest.approx((9.5, 18.0))


@pytest.mark.parametrize(
    ("value", "valid"),
    [("0", True), ("17", True), ("Wed, 21 Oct 2026 07:28:00 GMT", True), ("", False), ("-1", False), ("1.5", False)],
)
def test_retry_after(value, valid):
    """Retry-After holds whole seconds or a date."""
    assert is_retry_after(value) is valid


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"probabilities":{"a":0.6,"b":0.4},"diagnoses":[{"code":"a"},{"code":"b"}]}', None),
        (b'{"probabilities":{"a":0.6,"b":0.3},"diagnoses":[{"code":"a"},{"code":"b"}]}', "sum to 0.9"),
        (b'{"probabilities":{"a":0.6,"b":0.4},"diagnoses":[{"code":"a"}]}', "1 diagnoses"),
        (b'{"probabilities":{"a":0.6,"b":0.4},"diagnoses":[{"code":"b"},{"code":"a"}]}', "not the two most"),
        (b'{"probabilities":{"a":0.6,"b":0.4},"diagnoses":[],"in_distribution":{"accepted":false}}', None),
        (b'{"probabilities":{"a":0.6,"b":0.4},"diagnoses":[],"in_distribution":{"accepted":true}}', "0 diagnoses"),
        (b'{"probabilities":{"a":NaN,"b":0.4},"diagnoses":[{"code":"b"},{"code":"a"}]}', "sum to nan"),
        (b"[]", "not a prediction"),
        (b"<html>", "not a prediction"),
    ],
)
def test_bodies(body, fault):
    """A body is right when its probabilities sum to 1 and its two diagnoses are the most probable ones."""
    found = body_fault(body)
    assert found is None if fault is None else fault in str(found)


def test_pictures():
    """Pictures are 600 x 450 JPEGs of about 270 kB, all different, the same for the same seed."""
    pictures = make_pictures(8, seed=5)
    assert len(set(pictures)) == 8
    assert make_pictures(1, seed=5)[0] == pictures[0]
    assert all(250_000 < len(picture) < 295_000 for picture in pictures)
    assert all(picture[:3] == b"\xff\xd8\xff" for picture in pictures)
