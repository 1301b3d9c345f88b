"""Does a quantity grow? The slope of its readings, with its uncertainty: noise is no leak, a slow leak is no noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INTERVALS = 20
LEAST_INTERVALS = 4  # a line through three points says nothing of its own uncertainty
SURE = 2.0  # standard errors


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through the readings after a settling time; units are the readings' own."""

    per_second: float
    standard_error_per_second: float
    seconds: float  # how long the line is

    @property
    def least_per_second(self) -> float:
        """The slope that is surely reached: what the noise may have added is taken off."""
        return self.per_second - SURE * self.standard_error_per_second

    @property
    def least_growth(self) -> float:
        """How far the readings surely rose."""
        return self.least_per_second * self.seconds


def trend(readings: Sequence[tuple[float, float]], from_seconds: float) -> Trend | None:
    """The trend of (seconds, value) readings after `from_seconds`; None when there are too few.

    The lowest reading of each of 20 intervals counts: memory that swings with the load is no growth.
    """
    settled = np.array([reading for reading in readings if reading[0] >= from_seconds], dtype=np.float64)
    if len(settled) < LEAST_INTERVALS:
        return None
    parts = np.array_split(settled, min(INTERVALS, len(settled)))
    seconds = np.array([part[:, 0].mean() for part in parts])
    lowest = np.array([part[:, 1].min() for part in parts])
    centred = seconds - seconds.mean()
    spread = float((centred**2).sum())
    if spread == 0:
        return None
    slope = float((centred * lowest).sum()) / spread
    off_the_line = lowest - lowest.mean() - slope * centred
    error = float(np.sqrt((off_the_line**2).sum() / (len(parts) - 2) / spread))
    return Trend(slope, error, float(settled[-1, 0] - settled[0, 0]))
