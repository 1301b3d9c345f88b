"""The promises, one function each: what was found, what was allowed, whether it holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtests.answers import ABANDONED, ANSWERED, REFUSED, TIMEOUT
from loadtests.generator import Exchange
from loadtests.health import PATHS
from loadtests.observation import Observation
from loadtests.scenarios.phases import LARGE, LEAVER, RETRIER, Span
from loadtests.server_metrics import ABANDONED_IN_WORK, DROPPED, PICTURES_IN_NETWORK
from loadtests.summary import percentiles
from loadtests.trend import Trend, trend

LATE = "http_504"  # admitted, and not answered in time
GOODPUT_SHARE = 0.95  # of the capacity
REFUSAL_P99_SECONDS = 0.1
HEALTH_P99_SECONDS = 0.05
COUNT_DIFFERENCE_POINTS = 0.1
SETTLING_SHARE = 1 / 3  # of a run, before its memory is judged
MEMORY_GROWTH_MIB = 16.0
MEMORY_SLOPE_MIB_PER_HOUR = 1.0
DESCRIPTOR_GROWTH = 10.0
THREAD_GROWTH = 1.0
WASTED_SHARE = 0.01  # of the abandoned
RETRIES_SUCCEED_SHARE = 0.9
HARM_FACTOR = 1.5  # of the p95 beside slow uploaders to the p95 without
RECOVERY_FACTOR = 2.0  # of the p95 after a spike to the p95 before


@dataclass(frozen=True, slots=True)
class Check:
    """One promise held against what was seen; `passed` is None for information, or where the service does not tell.

    `value` is the figure that was judged, where nothing but a figure that varies from round to round decided.
    """

    promise: str
    found: str
    limit: str
    passed: bool | None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a judge looks at."""

    observation: Observation
    capacity_per_second: float
    spans: dict[str, Span]  # when each phase was

    @property
    def target_seconds(self) -> float:
        """An answer within this."""
        return self.observation.target_seconds

    def calls(self, phase: str | None = None, *, role: str | None = None) -> list[Exchange]:
        """First attempts: all, or those of a phase, or of a role."""
        return [
            exchange
            for exchange in self.observation.exchanges
            if exchange.attempt == 1 and phase in (None, exchange.phase) and role in (None, exchange.role)
        ]

    def in_time(self, exchanges: Sequence[Exchange]) -> int:
        """How many were answered within the target."""
        return sum(e.kind == ANSWERED and e.latency_seconds <= self.target_seconds for e in exchanges)


Promise = Callable[[Evidence], Check]


def everybody_answered(evidence: Evidence) -> Check:
    """Every request gets its answer within the target, none is refused."""
    exchanges = evidence.calls()
    in_time = evidence.in_time(exchanges)
    found = f"{in_time} of {len(exchanges)}"
    promise = f"answered within {evidence.target_seconds:g} s"
    return Check(promise, found, "all", bool(exchanges) and in_time == len(exchanges))


def no_errors(evidence: Evidence) -> Check:
    """Answers, proper refusals, missed deadlines (judged by their latency) and nothing else."""
    summary = evidence.observation.summary
    errors = {kind: number for kind, number in summary.errors.items() if kind != LATE}
    found = ", ".join(f"{number} x {kind}" for kind, number in errors.items()) or "none"
    if not summary.answered:
        found = "not one answer"
    return Check("errors", found, "none", not errors and summary.answered > 0)


def goodput(phase: str, *, role: str = "") -> Promise:
    """Answers within the target that came while the phase lasted, against the capacity."""

    def check(evidence: Evidence) -> Check:
        span = evidence.spans[phase]
        exchanges = [
            e for e in evidence.observation.exchanges if e.role == role and span.start <= e.finished_seconds < span.end
        ]
        per_second = evidence.in_time(exchanges) / span.seconds
        share = per_second / evidence.capacity_per_second
        return Check(
            f"answers within {evidence.target_seconds:g} s",
            f"{per_second:.1f} /s = {share:.3f} C",
            f"at least {GOODPUT_SHARE:g} C",
            share >= GOODPUT_SHARE,
            share,
        )

    return check


def accepted_in_time(evidence: Evidence) -> Check:
    """99 % of what was let in are answered within the target; a 504 or no answer counts with the time it took."""
    accepted = [e.latency_seconds for e in evidence.observation.exchanges if e.kind in (ANSWERED, LATE, TIMEOUT)]
    limit = evidence.target_seconds
    return _latency("accepted p99", percentiles(accepted, 99)[0], limit, passed=bool(accepted))


def quick_refusals(evidence: Evidence) -> Check:
    """A refusal costs its caller no time."""
    refused = [e.latency_seconds for e in evidence.observation.exchanges if e.kind == REFUSED]
    return _latency(f"refusals p99 ({len(refused)})", percentiles(refused, 99)[0], REFUSAL_P99_SECONDS)


def quick_health(evidence: Evidence) -> Check:
    """The slower of /healthz and /readyz."""
    p99 = max(health_p99_seconds(evidence.observation, path) for path in PATHS)
    return _latency("health p99", p99, HEALTH_P99_SECONDS, passed=bool(evidence.observation.health))


def true_health(evidence: Evidence) -> Check:
    """Busy is not broken: every probe is answered with 200."""
    probes = evidence.observation.health
    false = sum(probe.status != 200 for probe in probes)
    return Check("health false", f"{false} of {len(probes)} probes", "none", bool(probes) and not false)


def counts_agree(evidence: Evidence) -> Check:
    """The share within the target that /metrics shows is the one that the callers saw."""
    count = evidence.observation.server_count
    promise, limit = "share within target: service against callers", f"at most {COUNT_DIFFERENCE_POINTS:g} points apart"
    if count is None:
        return Check(promise, "the service does not tell", limit, None)
    # from the moment the request left: the service cannot know how late the generator was
    latencies = [e.latency_seconds - e.lag_seconds for e in evidence.observation.exchanges if e.kind == ANSWERED]
    within = sum(latency <= evidence.target_seconds for latency in latencies)
    callers = within / len(latencies) if latencies else 1.0
    found = f"{count.share_within_target:.3%} against {callers:.3%}"
    difference_points = round(abs(count.share_within_target - callers) * 100, 6)  # 99.9 - 99.8 is a little above 0.1
    return Check(promise, found, limit, difference_points <= COUNT_DIFFERENCE_POINTS)


def bounded_memory(evidence: Evidence) -> Check:
    """Memory that does not grow under a steady load, after a settling time."""
    line = _settled_trend(evidence, evidence.observation.server.memory)
    promise, limit = "memory growth once settled", f"at most {MEMORY_GROWTH_MIB:g} MiB"
    if line is None:
        return Check(promise, "too few readings", limit, None)
    growth_mib = line.least_growth / 2**20
    return Check(promise, f"{max(0.0, growth_mib):.1f} MiB", limit, growth_mib <= MEMORY_GROWTH_MIB, growth_mib)


def flat_memory(evidence: Evidence) -> Check:
    """No leak: the slope after a settling time, less what the noise may have added."""
    line = _settled_trend(evidence, evidence.observation.server.memory)
    promise, limit = "memory slope once settled", f"at most {MEMORY_SLOPE_MIB_PER_HOUR:g} MiB/h"
    if line is None:
        return Check(promise, "too few readings", limit, None)
    factor = 3600 / 2**20
    slope, error = line.per_second * factor, line.standard_error_per_second * factor
    found = f"{slope:.2f} MiB/h (standard error {error:.2f})"
    least = line.least_per_second * factor
    return Check(promise, found, limit, least <= MEMORY_SLOPE_MIB_PER_HOUR, least)


def flat_descriptors(evidence: Evidence) -> Check:
    """Connections are not lost open."""
    readings = evidence.observation.server.descriptors
    return _flat(evidence, readings, "open descriptors' growth once settled", DESCRIPTOR_GROWTH)


def flat_threads(evidence: Evidence) -> Check:
    """No thread is left behind."""
    return _flat(evidence, evidence.observation.server.threads, "threads' growth once settled", THREAD_GROWTH)


def _flat(evidence: Evidence, readings: Sequence[tuple[float, float]], promise: str, most: float) -> Check:
    line, limit = _settled_trend(evidence, readings), f"at most {most:g}"
    if line is None:
        return Check(promise, "too few readings", limit, None)
    return Check(promise, f"{max(0.0, line.least_growth):.1f}", limit, line.least_growth <= most)


def recovered(before: str, after: str) -> Promise:
    """Some seconds after a spike callers are served as before it."""

    def check(evidence: Evidence) -> Check:
        first, second = (_answered_p95(evidence, phase) for phase in (before, after))
        refused = sum(e.kind == REFUSED for e in evidence.calls(after))
        answered = evidence.in_time(evidence.calls(after))
        return Check(
            "p95 after against before the spike",
            f"{second * 1000:.0f} against {first * 1000:.0f} ms, {refused} refused",
            f"at most {RECOVERY_FACTOR:g} times, none refused",
            answered > 0 and second <= RECOVERY_FACTOR * first and not refused,
            second / first if answered and first and not refused else None,
        )

    return check


def unharmed(alone: str, beside: str) -> Promise:
    """Callers notice nothing of slow uploaders."""

    def check(evidence: Evidence) -> Check:
        first, second = (_answered_p95(evidence, phase) for phase in (alone, beside))
        return Check(
            "p95 beside slow uploaders against alone",
            f"{second * 1000:.0f} against {first * 1000:.0f} ms",
            f"at most {HARM_FACTOR:g} times",
            bool(evidence.calls(beside)) and second <= HARM_FACTOR * first,
            second / first if evidence.calls(beside) and first else None,
        )

    return check


def small_ones_in_time(evidence: Evidence) -> Check:
    """Large pictures do not keep small ones from their answers: none is refused, 99 % come in time."""
    small = [e for e in evidence.calls() if e.role != LARGE]
    unanswered = sum(e.kind != ANSWERED for e in small)
    p99 = percentiles([e.latency_seconds for e in small if e.kind == ANSWERED], 99)[0]
    found = f"{p99:.3f} s, {unanswered} of {len(small)} unanswered"
    limit = f"at most {evidence.target_seconds:g} s, none unanswered"
    passed = bool(small) and not unanswered and p99 <= evidence.target_seconds
    return Check("small pictures' p99", found, limit, passed)


def large_ones(evidence: Evidence) -> Check:
    """For information: what became of the large pictures."""
    large = evidence.calls(role=LARGE)
    found = (
        f"{evidence.in_time(large)} of {len(large)} answered in time, {sum(e.kind == REFUSED for e in large)} refused"
    )
    return Check("large pictures", found, "information", None)


def abandoned_unspent(evidence: Evidence) -> Check:
    """Pictures that the network saw beyond those that were answered were worked on for nobody.

    Who left when a worker had the picture already did not leave the line: the service counts them on its own.
    """
    observation = evidence.observation
    abandoned = sum(e.kind == ABANDONED for e in observation.exchanges)
    promise, limit = "abandoned in the line, yet in the network", f"at most {WASTED_SHARE:.0%}"
    pictures = observation.server.increase(PICTURES_IN_NETWORK)
    if pictures is None or not abandoned:
        return Check(promise, f"{abandoned} abandoned, the service counted {pictures} pictures", limit, False)
    in_work = observation.server.increase(ABANDONED_IN_WORK) or 0.0  # not told: all count as waste
    dropped = observation.server.increase(DROPPED, reason="departed") or 0.0
    queued = abandoned - in_work
    wasted = max(0.0, pictures - observation.summary.answered - in_work)
    found = f"{wasted:.0f} of {queued:.0f} (dropped from the line {dropped:.0f}, left when in work {in_work:.0f})"
    return Check(promise, found, limit, wasted <= WASTED_SHARE * queued)


def retries_succeed(phase: str, *, judged: bool) -> Promise:
    """Who comes back when Retry-After says so is served."""

    def check(evidence: Evidence) -> Check:
        retries = [e for e in evidence.observation.exchanges if (e.phase, e.role, e.attempt) == (phase, RETRIER, 2)]
        share = evidence.in_time(retries) / len(retries) if retries else 0.0
        found = f"{share:.1%} of {len(retries)}"
        if not judged:
            return Check(f"first retries that succeed: {phase}", found, "information", None)
        limit, passed = f"at least {RETRIES_SUCCEED_SHARE:.0%}", bool(retries) and share >= RETRIES_SUCCEED_SHARE
        return Check(f"first retries that succeed: {phase}", found, limit, passed, share if retries else None)

    return check


def leavers_left(evidence: Evidence) -> Check:
    """For information: how many of those who would leave did."""
    leavers = evidence.calls(role=LEAVER)
    left = sum(e.kind == ABANDONED for e in leavers)
    return Check("callers that left while they waited", f"{left} of {len(leavers)} impatient ones", "information", None)


def slow_upload_endings(evidence: Evidence) -> Check:
    """For information: what the service did with slow uploaders."""
    endings = evidence.observation.slow_upload_endings
    found = ", ".join(f"{number} x {ending}" for ending, number in sorted(endings.items())) or "none"
    return Check("slow uploads' endings", found, "information", None)


def health_p99_seconds(observation: Observation, path: str) -> float:
    """99th percentile of the latencies of one health page, 0 without probes."""
    return percentiles([probe.latency_seconds for probe in observation.health if probe.path == path], 99)[0]


def _answered_p95(evidence: Evidence, phase: str) -> float:
    latencies = [e.latency_seconds for e in evidence.calls(phase) if e.kind == ANSWERED]
    return percentiles(latencies, 95)[0]


def _settled_trend(evidence: Evidence, readings: Sequence[tuple[float, float]]) -> Trend | None:
    return trend(readings, SETTLING_SHARE * evidence.observation.duration_seconds)


def _latency(promise: str, seconds: float, limit_seconds: float, *, passed: bool = True) -> Check:
    found, limit = f"{seconds * 1000:.0f} ms", f"at most {limit_seconds * 1000:g} ms"
    return Check(promise, found, limit, passed and seconds <= limit_seconds, seconds if passed else None)
