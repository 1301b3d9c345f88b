"""What one load test is asked to do: every choice in one frozen object, the units in the names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, checked."""

    url: str = "http://127.0.0.1:8000"
    start_service: bool = False
    rate_per_second: float | None = None  # None: measure the capacity and take `share` of it
    share: float = 0.5
    duration_seconds: float = 30.0
    arrivals: str = "poisson"
    target_seconds: float = 3.0
    deadline_seconds: float | None = None  # sent with every request when given
    give_up_seconds: float = 15.0
    in_flight_limit: int = 1000
    expect_refusals: bool = False
    memory_growth_limit_mib: float = 512.0
    capacity_clients: int = 8
    capacity_seconds: float = 8.0
    pictures: int = 32
    seed: int = 1
    report_folder: Path = Path("loadtest-report")
