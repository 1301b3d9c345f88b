"""The figures of one run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.answers import ABANDONED, ANSWERED, REFUSED
from loadtests.generator import Exchange

LAG_LIMIT_SECONDS = 0.05  # a generator later than this at p99 measures itself


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of requests, latencies in seconds counted from the moment a request was due."""

    requests: int
    answered: int  # status 200
    refused: int  # status 503 with a valid Retry-After
    abandoned: int  # the caller left, as it was told to
    errors: dict[str, int]  # everything else, by kind
    answered_within_target: int
    late: int  # answers and refusals later than the target
    offered_per_second: float
    achieved_per_second: float
    p50_seconds: float  # of the 200 answers, as are the next three
    p95_seconds: float
    p99_seconds: float
    max_seconds: float
    refusal_p99_seconds: float
    retry_after_p50_seconds: float  # what refusals asked to wait
    retry_after_max_seconds: float
    generator_lag_p99_seconds: float

    @property
    def share_within_target(self) -> float:
        """Part of all requests that got a 200 answer within the target, 0..1."""
        return self.answered_within_target / self.requests if self.requests else 0.0

    @property
    def doubtful(self) -> bool:
        """Whether the generator fell behind its own schedule."""
        return self.generator_lag_p99_seconds > LAG_LIMIT_SECONDS


def summarise(exchanges: Sequence[Exchange], duration_seconds: float, target_seconds: float) -> Summary:
    """The figures of a run whose requests were due over `duration_seconds`."""
    kinds = Counter(exchange.kind for exchange in exchanges)
    answered = [exchange.latency_seconds for exchange in exchanges if exchange.kind == ANSWERED]
    refused = [exchange.latency_seconds for exchange in exchanges if exchange.kind == REFUSED]
    last_answer_seconds = max((e.finished_seconds for e in exchanges if e.kind == ANSWERED), default=0.0)
    retry_after = [e.retry_after_seconds for e in exchanges if e.retry_after_seconds is not None]
    p50, p95, p99, slowest = percentiles(answered, 50, 95, 99, 100)
    return Summary(
        requests=len(exchanges),
        answered=len(answered),
        refused=len(refused),
        abandoned=kinds[ABANDONED],
        errors={kind: number for kind, number in kinds.most_common() if kind not in (ANSWERED, REFUSED, ABANDONED)},
        answered_within_target=sum(latency <= target_seconds for latency in answered),
        late=sum(latency > target_seconds for latency in answered + refused),
        offered_per_second=len(exchanges) / duration_seconds,
        achieved_per_second=len(answered) / max(duration_seconds, last_answer_seconds),
        p50_seconds=p50,
        p95_seconds=p95,
        p99_seconds=p99,
        max_seconds=slowest,
        refusal_p99_seconds=percentiles(refused, 99)[0],
        retry_after_p50_seconds=percentiles(retry_after, 50)[0],
        retry_after_max_seconds=max(retry_after, default=0.0),
        generator_lag_p99_seconds=percentiles([exchange.lag_seconds for exchange in exchanges], 99)[0],
    )


def percentiles(seconds: Sequence[float], *ranks: float) -> list[float]:
    """Percentiles in seconds, 0 when there is nothing to rank."""
    return [float(value) for value in np.percentile(seconds, ranks)] if seconds else [0.0] * len(ranks)
