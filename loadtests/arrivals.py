"""When requests are due: an open loop knows its schedule before the first answer."""

import numpy as np
import numpy.typing as npt


def poisson_arrivals(rate_per_second: float, duration_seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Independent callers: offsets in seconds from the start, rising, all below the duration."""
    generator = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are uniform over the interval
    number = generator.poisson(rate_per_second * duration_seconds)
    return np.sort(generator.uniform(0.0, duration_seconds, number))


def constant_arrivals(rate_per_second: float, duration_seconds: float) -> npt.NDArray[np.float64]:
    """A metronome: offsets in seconds from the start, 1 / rate apart, the first at 0."""
    return np.arange(round(rate_per_second * duration_seconds), dtype=np.float64) / rate_per_second


def schedule(kind: str, rate_per_second: float, duration_seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Offsets in seconds of every request of a run; kind is "poisson" or "constant"."""
    if kind == "constant":
        return constant_arrivals(rate_per_second, duration_seconds)
    return poisson_arrivals(rate_per_second, duration_seconds, seed)
