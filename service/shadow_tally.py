"""How much a candidate's answers differ from those that were given: counts, an interval, quantiles. Pure."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from service.schemas import ServingModel, ShadowDistance, ShadowReport

_QUANTILES_OF = 10_000  # the latest pictures
_Z = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Compared:
    """One picture through both versions. `distance`: largest difference of a probability; seconds in the network."""

    same_first_diagnosis: bool
    distance: float
    serving_malignant: bool
    candidate_malignant: bool
    serving_seconds: float
    candidate_seconds: float


class ShadowTally:
    """Of one pair of versions: the one that serves, and the candidate."""

    def __init__(self, pair: tuple[ServingModel, ServingModel]) -> None:
        self.pair, self._since = pair, datetime.now(UTC)
        self._pictures = self._same = self._to_malignant = self._to_benign = self._dropped = self._failed = 0
        self._serving_seconds = self._candidate_seconds = 0.0
        self._latest: deque[Compared] = deque(maxlen=_QUANTILES_OF)

    def add(self, compared: Compared) -> None:
        """A picture went through both."""
        self._pictures += 1
        self._same += compared.same_first_diagnosis
        self._to_malignant += compared.candidate_malignant and not compared.serving_malignant
        self._to_benign += compared.serving_malignant and not compared.candidate_malignant
        self._serving_seconds += compared.serving_seconds
        self._candidate_seconds += compared.candidate_seconds
        self._latest.append(compared)

    def drop(self, *, failed: bool) -> None:
        """A picture of the share was not compared: there was no time for it, or the candidate failed on it."""
        self._failed += failed
        self._dropped += not failed

    def report(self) -> ShadowReport:
        """All of it; shares and quantiles are None before the first picture."""
        serving, candidate = self.pair
        pictures = self._pictures
        low, high = wilson_interval(self._same, pictures)
        return ShadowReport(
            serving=serving,
            candidate=candidate,
            since=self._since,
            pictures=pictures,
            dropped=self._dropped,
            failed=self._failed,
            same_first_diagnosis=self._share(self._same),
            same_first_diagnosis_low=low,
            same_first_diagnosis_high=high,
            malignancy_flips=self._share(self._to_malignant + self._to_benign),
            to_malignant=self._to_malignant,
            to_benign=self._to_benign,
            probability_distance=self._distance(),
            serving_mean_seconds=self._serving_seconds / pictures if pictures else None,
            candidate_mean_seconds=self._candidate_seconds / pictures if pictures else None,
            latency_p99_ratio=self._latency_p99_ratio(),
        )

    def _share(self, count: int) -> float | None:
        return count / self._pictures if self._pictures else None

    def _distance(self) -> ShadowDistance | None:
        if not self._latest:
            return None
        p50, p90, p99, largest = _quantiles([c.distance for c in self._latest], (0.5, 0.9, 0.99, 1.0))
        return ShadowDistance(p50=p50, p90=p90, p99=p99, max=largest)

    def _latency_p99_ratio(self) -> float | None:
        if not self._latest:
            return None
        (ours,) = _quantiles([c.serving_seconds for c in self._latest], (0.99,))
        (theirs,) = _quantiles([c.candidate_seconds for c in self._latest], (0.99,))
        return theirs / ours if ours else None


def wilson_interval(successes: int, trials: int) -> tuple[float | None, float | None]:
    """95 % interval of a share (Wilson 1927): right also where the share is 0 or 1, which agreement often is."""
    if not trials:
        return None, None
    share, z2 = successes / trials, _Z**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def _quantiles(values: Sequence[float], which: Sequence[float]) -> list[float]:
    return [float(found) for found in np.quantile(values, which)]
