"""Each promise of the scenarios, with its limit: what keeps it and what breaks it."""

import dataclasses

import pytest

from loadtests.generator import Exchange
from loadtests.health import Probe, read_probe
from loadtests.observation import Observation
from loadtests.scenarios import checks
from loadtests.scenarios.phases import LARGE, LEAVER, RETRIER, Span
from loadtests.server_metrics import ServerWatch, parse_samples
from loadtests.summary import summarise
from loadtests.trend import trend

MIB = 2**20
SPANS = {"before": Span(0.0, 10.0), "load": Span(10.0, 20.0)}


def exchanges_of(number, latency_seconds=0.1, kind="answered", *, phase="load", start=10.0, **fields):
    """So many of a kind, due evenly over ten seconds from `start` on."""
    due = [start + 10.0 * index / number for index in range(number)]
    return [Exchange(at, 0.0, latency_seconds, kind, phase=phase, **fields) for at in due]


def evidence_of(
    exchanges, *, capacity=10.0, health=(), metrics=("", ""), memory=(), descriptors=(), threads=(), **fields
):
    """Evidence of a run of 20 s with a target of 3 s."""
    server = ServerWatch(list(memory), list(descriptors), list(threads), *map(parse_samples, metrics), seconds=20.0)
    observation = Observation(
        started_at="",
        machine="",
        url="",
        model="",
        duration_seconds=20.0,
        target_seconds=3.0,
        exchanges=exchanges,
        faults={},
        most_in_flight=0,
        connections_opened=0,
        generator_cores=0.0,
        server=server,
        health=health,
        slow_upload_endings={},
        summary=summarise(exchanges, 20.0, 3.0),
    )
    return checks.Evidence(dataclasses.replace(observation, **fields), capacity, SPANS)


@pytest.mark.parametrize(
    ("exchanges", "kept"),
    [
        (exchanges_of(10), True),
        (exchanges_of(10, 3.0), True),
        (exchanges_of(10) + exchanges_of(1, 3.1), False),
        (exchanges_of(10) + exchanges_of(1, kind="refused"), False),
        ([], False),
    ],
)
def test_everybody_answered(exchanges, kept):
    """One late answer or one refusal breaks it, and so does silence."""
    assert checks.everybody_answered(evidence_of(exchanges)).passed is kept


@pytest.mark.parametrize(
    ("exchanges", "kept"),
    [
        (exchanges_of(10) + exchanges_of(5, kind="refused") + exchanges_of(5, kind="abandoned"), True),
        (exchanges_of(10) + exchanges_of(1, 3.1, "http_504"), True),  # judged by its latency
        (exchanges_of(10) + exchanges_of(1, kind="http_500"), False),
        (exchanges_of(10) + exchanges_of(1, kind="refused_without_retry_after"), False),
        (exchanges_of(10) + exchanges_of(1, kind="timeout"), False),
        (exchanges_of(10, kind="refused"), False),
    ],
)
def test_no_errors(exchanges, kept):
    """Refusals, departures and missed deadlines are no errors; everything else is, and so is answering nobody."""
    assert checks.no_errors(evidence_of(exchanges)).passed is kept


@pytest.mark.parametrize(("answers", "latency_seconds", "kept"), [(95, 0.0, True), (94, 0.0, False), (95, 3.1, False)])
def test_goodput(answers, latency_seconds, kept):
    """0.95 C of answers in time while the phase lasts, those that end after it not counted."""
    others = exchanges_of(50, phase="before", start=0.0) + exchanges_of(50, 12.0) + exchanges_of(50, role=LEAVER)
    check = checks.goodput("load")(evidence_of(exchanges_of(answers, latency_seconds) + others))
    assert check.passed is kept


@pytest.mark.parametrize(
    ("late", "kind", "kept"),
    [(1, "answered", True), (3, "answered", False), (3, "http_504", False), (3, "timeout", False)],
)
def test_accepted_in_time(late, kind, kept):
    """Of what was let in 99 % are in time; a 504 and no answer count as late."""
    exchanges = exchanges_of(200, 2.9) + exchanges_of(late, 3.2, kind) + exchanges_of(50, 3.5, "refused")
    assert checks.accepted_in_time(evidence_of(exchanges)).passed is kept


@pytest.mark.parametrize(("slow", "kept"), [(1, True), (3, False)])
def test_quick_refusals(slow, kept):
    """99 % of the refusals come within 100 ms."""
    exchanges = exchanges_of(200, 0.09, "refused") + exchanges_of(slow, 0.2, "refused")
    assert checks.quick_refusals(evidence_of(exchanges)).passed is kept


@pytest.mark.parametrize(
    ("latency_seconds", "status", "quick", "true"),
    [(0.049, 200, True, True), (0.06, 200, False, True), (0.01, 503, True, False), (0.01, 0, True, False)],
)
def test_health(latency_seconds, status, quick, true):
    """Health pages answer within 50 ms at p99, always 200; one path alone can break it."""
    good = [Probe(float(i), "/healthz", 200, 0.001) for i in range(10)]
    evidence = evidence_of([], health=[*good, Probe(0.05, "/readyz", status, latency_seconds)])
    assert (checks.quick_health(evidence).passed, checks.true_health(evidence).passed) == (quick, true)


def test_no_probe_is_no_health():
    """Nothing seen is nothing shown."""
    evidence = evidence_of([])
    assert not checks.quick_health(evidence).passed
    assert not checks.true_health(evidence).passed


def test_probes_are_read():
    """The probing process's lines come back as what they were."""
    assert read_probe("1.050 /readyz 200 0.001234\n") == Probe(1.05, "/readyz", 200, 0.001234)


HISTOGRAM = """
dermserve_prediction_duration_seconds_bucket{{le="3.0"}} {within}
dermserve_prediction_duration_seconds_bucket{{le="+Inf"}} {all}
"""


@pytest.mark.parametrize(("within", "kept"), [(998, True), (999, True), (996, False), (1000, False)])
def test_counts_agree(within, kept):
    """The service's share and the callers' are at most 0.1 point apart; callers' late ones count for both."""
    exchanges = exchanges_of(998) + exchanges_of(2, 3.5)
    metrics = (HISTOGRAM.format(within=7, all=9), HISTOGRAM.format(within=7 + within, all=1009))
    assert checks.counts_agree(evidence_of(exchanges, metrics=metrics)).passed is kept


def test_a_service_that_does_not_tell():
    """Without metrics the comparison and the memory are not judged."""
    evidence = evidence_of(exchanges_of(10))
    assert checks.counts_agree(evidence).passed is None
    assert checks.flat_memory(evidence).passed is None
    assert checks.bounded_memory(evidence).passed is None


def readings(per_second, *, seconds=1800, swing=0.0, first=200.0 * MIB):
    """A reading a second: a slope, and a swing as load makes it."""
    return [(float(i), first + per_second * i + swing * (i * 7919 % 13) / 13) for i in range(seconds)]


@pytest.mark.parametrize(("mib_per_hour", "kept"), [(0.0, True), (0.9, True), (3.0, False)])
def test_flat_memory(mib_per_hour, kept):
    """1 MiB an hour is the limit, whatever the load lets it swing."""
    memory = readings(mib_per_hour * MIB / 3600, swing=30.0 * MIB)
    assert checks.flat_memory(evidence_of([], memory=memory, duration_seconds=1800.0)).passed is kept


def test_memory_may_settle():
    """What a service takes in its first third is no leak."""
    memory = [(float(i), 100.0 * MIB + min(i, 500) * MIB) for i in range(1800)]
    assert checks.flat_memory(evidence_of([], memory=memory, duration_seconds=1800.0)).passed


@pytest.mark.parametrize(("mib_per_second", "kept"), [(0.1, True), (1.0, False)])
def test_bounded_memory(mib_per_second, kept):
    """Under overload it may grow by 16 MiB once settled."""
    memory = readings(mib_per_second * MIB, seconds=60)
    assert checks.bounded_memory(evidence_of([], memory=memory, duration_seconds=60.0)).passed is kept


@pytest.mark.parametrize(("per_second", "kept"), [(0.0, True), (0.1, False)])
def test_flat_descriptors(per_second, kept):
    """Lost connections show."""
    descriptors = readings(per_second, first=40.0)
    assert checks.flat_descriptors(evidence_of([], descriptors=descriptors, duration_seconds=1800.0)).passed is kept


@pytest.mark.parametrize(("per_second", "kept"), [(0.0, True), (0.01, False)])
def test_flat_threads(per_second, kept):
    """Threads that nobody ends show."""
    threads = readings(per_second, first=12.0)
    assert checks.flat_threads(evidence_of([], threads=threads, duration_seconds=1800.0)).passed is kept


def test_trend_says_how_sure_it_is():
    """Noise widens the error and does not become growth."""
    quiet, noisy = trend(readings(1.0), 600.0), trend(readings(1.0, swing=MIB), 600.0)
    assert quiet.per_second == pytest.approx(1.0)
    assert quiet.least_per_second == pytest.approx(1.0)
    assert noisy.standard_error_per_second > quiet.standard_error_per_second
    assert quiet.least_growth == pytest.approx(1199.0)
    assert trend(readings(1.0)[:3], 0.0) is None


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        (exchanges_of(50, 0.19), True),
        (exchanges_of(50, 0.21), False),
        (exchanges_of(50, 0.1) + exchanges_of(1, kind="refused"), False),
        ([], False),
    ],
)
def test_recovered(after, kept):
    """After a spike latency is at most twice what it was and nobody is refused."""
    exchanges = exchanges_of(50, 0.1, phase="before", start=0.0) + after
    assert checks.recovered("before", "load")(evidence_of(exchanges)).passed is kept


@pytest.mark.parametrize(("latency_seconds", "kept"), [(0.15, True), (0.16, False)])
def test_unharmed(latency_seconds, kept):
    """Beside slow uploaders latency is at most 1.5 times what it is without."""
    exchanges = exchanges_of(50, 0.1, phase="before", start=0.0) + exchanges_of(50, latency_seconds)
    assert checks.unharmed("before", "load")(evidence_of(exchanges)).passed is kept


@pytest.mark.parametrize(
    ("small", "kept"),
    [
        (exchanges_of(200, 2.9) + exchanges_of(1, 3.3), True),
        (exchanges_of(200, 3.1), False),
        (exchanges_of(200) + exchanges_of(1, kind="refused"), False),
    ],
)
def test_small_ones_in_time(small, kept):
    """Small pictures are all answered, 99 % in time; what becomes of large ones is only told."""
    evidence = evidence_of(small + exchanges_of(5, 9.0, role=LARGE) + exchanges_of(5, kind="refused", role=LARGE))
    assert checks.small_ones_in_time(evidence).passed is kept
    assert checks.large_ones(evidence).found == "0 of 10 answered in time, 5 refused"


@pytest.mark.parametrize(("pictures", "kept"), [(100, True), (102, True), (103, False)])
def test_abandoned_unspent(pictures, kept):
    """The network may see 1 % more pictures than were answered, of those that were abandoned."""
    exchanges = exchanges_of(100) + exchanges_of(200, kind="abandoned", role=LEAVER)
    evidence = evidence_of(
        exchanges, metrics=("dermserve_batch_size_sum 7\n", f"dermserve_batch_size_sum {7 + pictures}\n")
    )
    assert checks.abandoned_unspent(evidence).passed is kept


def test_who_left_late_did_not_leave_the_line():
    """Pictures that a worker had already when their callers left are no waste."""
    after = "dermserve_batch_size_sum 110\ndermserve_abandoned_in_work_total 10\n"
    exchanges = exchanges_of(100) + exchanges_of(200, kind="abandoned", role=LEAVER)
    assert checks.abandoned_unspent(evidence_of(exchanges, metrics=("dermserve_batch_size_sum 0\n", after))).passed


def test_waste_cannot_be_judged_without_the_services_count():
    """This promise cannot be kept unseen."""
    assert checks.abandoned_unspent(evidence_of(exchanges_of(5, kind="abandoned"))).passed is False


@pytest.mark.parametrize(("succeed", "kept"), [(9, True), (8, False)])
def test_retries_succeed(succeed, kept):
    """Nine of ten first retries are answered in time; later retries do not count."""
    first = exchanges_of(10, kind="refused", role=RETRIER)
    second = exchanges_of(succeed, role=RETRIER, attempt=2) + exchanges_of(
        10 - succeed, kind="refused", role=RETRIER, attempt=2
    )
    third = exchanges_of(10, role=RETRIER, attempt=3)
    evidence = evidence_of(first + second + third)
    assert checks.retries_succeed("load", judged=True)(evidence).passed is kept
    assert checks.retries_succeed("load", judged=False)(evidence).passed is None


def test_no_retry_is_no_success():
    """Where nobody was refused nothing was shown."""
    assert not checks.retries_succeed("load", judged=True)(evidence_of(exchanges_of(10))).passed
