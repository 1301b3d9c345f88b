"""What the service says of itself at /metrics. All of it is optional: a service without it is still measured."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from loadtests.http_client import HttpProtocolError, Origin, fetch

# Every name that the load test reads
PREDICTION_SECONDS = "dermserve_prediction_duration_seconds"  # histogram of predictions answered with 200
PICTURES_IN_NETWORK = "dermserve_batch_size_sum"
DROPPED = "dermserve_dropped_total"  # by reason
ABANDONED_IN_WORK = "dermserve_abandoned_in_work_total"  # their callers left when a worker had them already
RESIDENT_BYTES = "process_resident_memory_bytes"
PROCESSOR_SECONDS = "process_cpu_seconds_total"
OPEN_DESCRIPTORS = "process_open_fds"
THREADS = "process_threads"

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

    answered: int  # with 200
    within_target: int  # of those

    @property
    def share_within_target(self) -> float:
        """0..1; 1 when nothing was answered."""
        return self.within_target / self.answered if self.answered else 1.0


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


def value_of(samples: list[Sample], name: str, **labels: str) -> float | None:
    """The value of the sample with this name and exactly these labels, None when it is not there."""
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), None)


def server_count(before: list[Sample], after: list[Sample], target_seconds: float) -> ServerCount | None:
    """Predictions answered during the run, and those within the target; None without a histogram with this edge."""
    counts = [_prediction_counts(samples, target_seconds) for samples in (before, after)]
    if counts[1] is None:
        return None
    answered_before, within_before = counts[0] or (0, 0)  # a service may show a histogram from its first value on
    return ServerCount(counts[1][0] - answered_before, counts[1][1] - within_before)


def _prediction_counts(samples: list[Sample], target_seconds: float) -> tuple[int, int] | None:
    buckets = {
        float(sample.labels["le"]): int(sample.value)
        for sample in samples
        if sample.name == f"{PREDICTION_SECONDS}_bucket"
    }
    if target_seconds not in buckets:
        return None
    return buckets[float("inf")], buckets[target_seconds]


@dataclass(slots=True)
class ServerWatch:
    """What was read from the service before, during and after the load."""

    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, bytes)
    descriptors: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, number open)
    threads: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, number)
    first: list[Sample] = field(default_factory=list)
    last: list[Sample] = field(default_factory=list)
    seconds: float = 0.0  # between the first and the last reading

    def add(self, seconds: float, samples: list[Sample]) -> None:
        """Write one reading down."""
        self.first = self.first or samples
        self.last, self.seconds = samples, seconds
        watched = {RESIDENT_BYTES: self.memory, OPEN_DESCRIPTORS: self.descriptors, THREADS: self.threads}
        for name, readings in watched.items():
            value = value_of(samples, name)
            if value is not None:
                readings.append((seconds, value))

    def increase(self, name: str, **labels: str) -> float | None:
        """How far a counter rose between the first and the last reading; None when the service does not tell."""
        after = value_of(self.last, name, **labels)
        return None if after is None else after - (value_of(self.first, name, **labels) or 0.0)

    @property
    def cores_used(self) -> float | None:
        """Processor seconds a second that the service used between the first and the last reading."""
        used = self.increase(PROCESSOR_SECONDS)
        return None if used is None or not self.seconds else used / self.seconds


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
