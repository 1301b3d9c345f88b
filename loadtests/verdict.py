"""Was the promise kept? One sentence, and the reasons when it was not."""

from dataclasses import dataclass

from loadtests.observation import Memory
from loadtests.summary import LAG_LIMIT_SECONDS, Summary


@dataclass(frozen=True, slots=True)
class Verdict:
    """Passed, or the reasons why not; `doubts` concern the measurement, not the service."""

    passed: bool
    sentence: str
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]


def judge(
    summary: Summary,
    *,
    target_seconds: float,
    expect_refusals: bool,
    memory: Memory | None = None,
    memory_growth_limit_mib: float = float("inf"),
) -> Verdict:
    """Hold the figures of a run against the promise.

    Normally every request must get a 200 answer within the target. With expect_refusals a refusal within the target
    (503 with a valid Retry-After) is as good, and the service's memory may grow by memory_growth_limit_mib at most.
    """
    reasons = _missed(summary, target_seconds)
    if summary.refused and not expect_refusals:
        reasons.append(f"{summary.refused} of {summary.requests} requests were refused (503)")
    if expect_refusals and memory is not None and memory.growth_mib > memory_growth_limit_mib:
        reasons.append(
            f"the service's memory grew by {memory.growth_mib:.0f} MiB (limit {memory_growth_limit_mib:.0f} MiB)"
        )
    passed = not reasons
    sentence = f"TARGET MISSED: {'; '.join(reasons)}." if reasons else _kept(summary, target_seconds)
    return Verdict(passed, sentence, tuple(reasons), tuple(doubts(summary)))


def _missed(summary: Summary, target_seconds: float) -> list[str]:
    if summary.requests == 0:
        return ["no request was due: raise the rate or the duration"]
    reasons = []
    if summary.late:
        reasons.append(
            f"{summary.late} of {summary.requests} requests were answered later than {target_seconds:g} s "
            f"(slowest {summary.max_seconds:.2f} s)"
        )
    reasons += [f"{number} of {summary.requests} requests ended in {kind}" for kind, number in summary.errors.items()]
    return reasons


def _kept(summary: Summary, target_seconds: float) -> str:
    slowest = f"(slowest {summary.max_seconds:.3f} s, p99 {summary.p99_seconds:.3f} s)"
    if not summary.refused:
        return f"TARGET MET: all {summary.requests} requests were answered within {target_seconds:g} s {slowest}."
    return (
        f"TARGET MET: of {summary.requests} requests {summary.answered} were answered {slowest} and {summary.refused} "
        f"refused with Retry-After, all within {target_seconds:g} s."
    )


def doubts(summary: Summary) -> list[str]:
    """What makes the figures themselves uncertain."""
    if not summary.doubtful:
        return []
    return [
        f"The generator fell behind its own schedule by {summary.generator_lag_p99_seconds * 1000:.0f} ms at p99 "
        f"(limit {LAG_LIMIT_SECONDS * 1000:.0f} ms): the load was uneven, the latencies are upper bounds."
    ]
