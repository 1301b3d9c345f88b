"""What the service says of itself at /metrics. All of it is optional: a service without it is still measured."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from loadtests.generator import PREDICTIONS
from loadtests.http_client import HttpProtocolError, Origin, fetch

SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
WATCH_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the Prometheus text format."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class ServerCount:
    """What the service's own histogram counted during the run."""

    requests: int
    within_target: int


def parse_samples(text: str) -> list[Sample]:
    """All samples of a page in the Prometheus text format; lines that are none are passed over."""
    matches = (SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#"))
    return [
        Sample(match["name"], dict(LABEL.findall(match["labels"] or "")), float(match["value"]))
        for match in matches
        if match
    ]


async def read_metrics(origin: Origin) -> list[Sample]:
    """The service's metrics, empty when there are none or nobody answers."""
    try:
        answer = await fetch(origin, "/metrics")
        return parse_samples(answer.body.decode("utf-8", "replace")) if answer.status == 200 else []
    except (OSError, HttpProtocolError, ValueError):
        return []


def value_of(samples: list[Sample], name: str) -> float | None:
    """The value of a metric without labels, None when it is not there."""
    return next((sample.value for sample in samples if sample.name == name), None)


def server_count(before: list[Sample], after: list[Sample], target_seconds: float) -> ServerCount | None:
    """Predictions during the run, and those within the target; None without a histogram that has this bucket."""
    counts = [_prediction_counts(samples, target_seconds) for samples in (before, after)]
    if counts[1] is None:
        return None
    requests_before, within_before = counts[0] or (0, 0)  # no request yet: the label set does not exist
    return ServerCount(counts[1][0] - requests_before, counts[1][1] - within_before)


def _prediction_counts(samples: list[Sample], target_seconds: float) -> tuple[int, int] | None:
    buckets = [
        (float(sample.labels["le"]), int(sample.value))
        for sample in samples
        if sample.name == "dermserve_request_duration_seconds_bucket" and sample.labels.get("route") == PREDICTIONS
    ]
    if not any(upper == target_seconds for upper, _ in buckets):
        return None
    total = sum(count for upper, count in buckets if upper == float("inf"))
    return total, sum(count for upper, count in buckets if upper == target_seconds)


@dataclass(slots=True)
class ServerWatch:
    """What was read from the service before, during and after the load."""

    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, bytes)
    first: list[Sample] = field(default_factory=list)
    last: list[Sample] = field(default_factory=list)
    seconds: float = 0.0  # between the first and the last reading

    def add(self, seconds: float, samples: list[Sample]) -> None:
        """Write one reading down."""
        self.first = self.first or samples
        self.last, self.seconds = samples, seconds
        memory_bytes = value_of(samples, "process_resident_memory_bytes")
        if memory_bytes is not None:
            self.memory.append((seconds, memory_bytes))

    @property
    def cores_used(self) -> float | None:
        """Processor seconds a second that the service used between the first and the last reading."""
        used = [value_of(samples, "process_cpu_seconds_total") for samples in (self.first, self.last)]
        if used[0] is None or used[1] is None or not self.seconds:
            return None
        return (used[1] - used[0]) / self.seconds


@contextlib.asynccontextmanager
async def watched_server(origin: Origin) -> AsyncIterator[ServerWatch]:
    """Read the service's metrics before the load, once a second while it runs, and after it."""
    watch = ServerWatch()
    loop = asyncio.get_running_loop()
    start_seconds = loop.time()

    async def read() -> None:
        samples = await read_metrics(origin)
        watch.add(loop.time() - start_seconds, samples)

    async def read_on() -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)
            await read()

    await read()
    reader = asyncio.create_task(read_on())
    try:
        yield watch
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await read()
