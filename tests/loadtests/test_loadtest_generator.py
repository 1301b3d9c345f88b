"""The open loop: who is due is sent, and latency counts from then."""

import asyncio
import shutil
import time

import numpy as np
import pytest

from loadtests.arrivals import constant_arrivals, poisson_arrivals
from loadtests.capacity import closed_loop, measure_capacity
from loadtests.generator import Call, OpenLoop, calls_in_turn, prediction_request
from loadtests.http_client import ConnectionPool, Origin
from tests.loadtests.scripted_server import REFUSAL, Reply


def open_loop(pool, *, give_up_seconds=10.0, in_flight_limit=1000):
    """A generator aimed at the server."""
    return OpenLoop(pool, give_up_seconds=give_up_seconds, in_flight_limit=in_flight_limit)


def calls_at(pool, due_seconds):
    """Patient callers with one tiny picture."""
    return calls_in_turn(due_seconds, [prediction_request(pool.origin, b"picture")])


async def test_the_schedule_does_not_wait_for_answers(server, pool):
    """All requests leave although the first answer comes only when the last request has arrived."""
    all_there = asyncio.Event()

    async def script(number):
        if number == 19:
            all_there.set()
        await all_there.wait()
        return Reply()

    server.script = script
    load = open_loop(pool)
    await load.run(calls_at(pool, constant_arrivals(200.0, 0.1)))
    assert load.tally.kinds == {"answered": 20}
    assert load.tally.most_in_flight == 20


async def test_latency_counts_from_the_moment_a_request_was_due(server, pool):
    """A request that had to wait for the generator itself has that wait in its latency."""

    async def script(number):
        if number == 0:
            time.sleep(0.4)  # noqa: ASYNC251 - stops the generator too, which shares this event loop
        return Reply()

    server.script = script
    load = open_loop(pool)
    await load.run(calls_at(pool, [0.0, 0.05]))
    second = max(load.tally.exchanges, key=lambda exchange: exchange.due_seconds)
    assert second.latency_seconds >= 0.3
    assert all(exchange.latency_seconds >= exchange.lag_seconds for exchange in load.tally.exchanges)


async def test_beyond_the_limit_in_flight_nothing_is_sent_but_counted(server, pool):
    """An arrival that finds the limit reached is an error of its own kind."""
    release = asyncio.Event()

    async def script(_number):
        await release.wait()
        return Reply()

    server.script = script
    load = open_loop(pool, in_flight_limit=3)
    run = asyncio.create_task(load.run(calls_at(pool, constant_arrivals(500.0, 0.02))))
    while load.tally.kinds["too_many_in_flight"] < 7:
        await asyncio.sleep(0.005)
    release.set()
    await run
    assert load.tally.kinds == {"answered": 3, "too_many_in_flight": 7}
    assert server.predictions == 3
    assert load.tally.errors == 7


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(), "answered"),
        (REFUSAL, "refused"),
        (Reply(503, b"{}"), "refused_without_retry_after"),
        (Reply(503, b"{}", {"Retry-After": "soon"}), "refused_without_retry_after"),
        (Reply(504, b"{}"), "http_504"),
        (Reply(500, b"{}"), "http_500"),
        (Reply(200, b"{}"), "wrong_answer"),
        (Reply(raw=b""), "connection_failed"),
    ],
)
async def test_every_ending_has_its_word(server, pool, reply, kind):
    """Each way in which a request can end is counted under its own name."""

    async def script(_number):
        return reply

    server.script = script
    load = open_loop(pool)
    await load.run(calls_at(pool, [0.0]))
    assert load.tally.kinds == {kind: 1}


async def test_no_answer_is_a_timeout(server, pool):
    """A request without an answer is given up and its latency is at least that long."""

    async def script(_number):
        await asyncio.Event().wait()
        return Reply()

    server.script = script
    load = open_loop(pool, give_up_seconds=0.2)
    await load.run(calls_at(pool, [0.0]))
    assert load.tally.kinds == {"timeout": 1}
    assert load.tally.exchanges[0].latency_seconds >= 0.2


async def test_the_generators_own_delay_is_not_blamed_on_the_service(pool):
    """A request that the generator could not send before it had to be given up has a word of its own."""
    asyncio.get_running_loop().call_soon(time.sleep, 0.6)  # stops the generator between its start and the first request
    load = open_loop(pool, give_up_seconds=0.3)
    await load.run(calls_at(pool, [0.0]))
    assert load.tally.kinds == {"sent_too_late": 1}
    assert load.tally.exchanges[0].lag_seconds >= 0.3


async def test_nobody_there_is_a_connection_failure():
    """A refused connection is counted and does not stop the run."""
    nobody = ConnectionPool(Origin("http://127.0.0.1:1"))
    load = open_loop(nobody)
    await load.run(calls_at(nobody, [0.0, 0.0, 0.01]))
    assert load.tally.kinds == {"connection_failed": 3}


async def test_the_deadline_travels_with_the_request(server, pool):
    """A deadline given to the load test is sent as a header, without one there is none."""
    for deadline, sent in ((1.5, True), (None, False)):
        server.heads.clear()
        await pool.send(prediction_request(pool.origin, b"p", deadline_seconds=deadline))
        assert ("X-Timeout-Seconds: 1.5" in server.heads[0]) == sent


@pytest.mark.parametrize("measure", [closed_loop, measure_capacity])
async def test_capacity_counts_answers_only(server, pool, measure):
    """A service that refuses every second request has failures in its capacity, not answers."""

    async def script(number):
        await asyncio.sleep(0.001)
        return Reply() if number % 2 else REFUSAL

    server.script = script
    requests = [prediction_request(pool.origin, b"picture")]
    capacity = await measure(pool, requests, clients=2, seconds=0.5)
    assert capacity.answers_per_second > 0
    assert capacity.failures > 0
    assert capacity.answers_per_second * capacity.seconds + capacity.failures <= server.predictions


async def test_the_lightest_client_measures_the_capacity(pool, monkeypatch):
    """wrk is taken where it is installed, else our own client; the result says which."""
    requests = [prediction_request(pool.origin, b"picture")]
    installed = "wrk" if shutil.which("wrk") else "asyncio"
    assert (await measure_capacity(pool, requests, clients=2, seconds=0.3)).measured_by == installed
    monkeypatch.setenv("PATH", "")
    assert (await measure_capacity(pool, requests, clients=2, seconds=0.3)).measured_by == "asyncio"


async def test_impatient_callers_leave(server, pool):
    """A caller whose patience ends closes its connection; that is no error."""
    gone = asyncio.Event()

    async def script(_number):
        await asyncio.Event().wait()
        return Reply()

    server.script, server.on_departure = script, gone.set
    load = open_loop(pool)
    await load.run([Call(0.0, prediction_request(pool.origin, b"picture"), patience_seconds=0.05)])
    assert load.tally.kinds == {"abandoned": 1}
    assert load.tally.errors == 0
    await asyncio.wait_for(gone.wait(), 10)


async def test_refused_callers_come_back_when_they_were_told_to(server, pool):
    """A caller that honours Retry-After sends again that much later, no more often than its limit."""

    async def script(number):
        return Reply(503, b"{}", {"Retry-After": "1"}) if number < 2 else Reply()

    server.script = script
    load = open_loop(pool)
    request = prediction_request(pool.origin, b"picture")
    await load.run([Call(0.0, request, phase="p", role="r", retry_limit=1)])
    first, second = load.tally.exchanges
    assert (first.kind, first.attempt, first.retry_after_seconds) == ("refused", 1, 1.0)
    assert (second.kind, second.attempt, second.phase, second.role) == ("refused", 2, "p", "r")
    assert second.due_seconds >= first.finished_seconds + 0.99
    assert server.predictions == 2


def test_poisson_arrivals_are_reproducible_and_random():
    """The same seed gives the same schedule; gaps vary as those of independent callers do."""
    due = poisson_arrivals(100.0, 100.0, seed=3)
    gaps = np.diff(due)
    assert np.array_equal(due, poisson_arrivals(100.0, 100.0, seed=3))
    assert not np.array_equal(due, poisson_arrivals(100.0, 100.0, seed=4)[: len(due)])
    assert due.min() >= 0
    assert due.max() < 100
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential gaps
    assert len(due) == pytest.approx(10_000, rel=0.05)


def test_constant_arrivals_are_a_metronome():
    """Ten a second over half a second are five, 0.1 s apart."""
    assert constant_arrivals(10.0, 0.5).tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
