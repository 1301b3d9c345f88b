"""A service of known capacity with planted flaws, behind the scripted server: what scenarios must approve or catch."""

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field

from loadtests.observation import WARM_UP_REQUESTS
from tests.loadtests.scripted_server import Reply, ScriptedServer

LARGE_BYTES = 900_000
METRICS = """\
dermserve_prediction_duration_seconds_bucket{{le="3.0"}} {within}
dermserve_prediction_duration_seconds_bucket{{le="+Inf"}} {answered}
dermserve_batch_size_sum {pictures}
dermserve_dropped_total{{reason="departed"}} {departed}
process_resident_memory_bytes {resident}
process_open_fds {descriptors}
process_threads {threads}
process_cpu_seconds_total 1
"""


@dataclass
class Flaws:
    """What is wrong with a service; by default nothing."""

    refuses_every: int = 0  # one in so many, for no reason
    answers_late: bool = False
    gets_slow_after: int = 0  # answers
    works_for_the_departed: bool = False
    small_wait_for_large: bool = False
    slow_beside_connections: int = 0
    refuses_who_comes_back: bool = False
    unready_after: int = 0  # answers
    miscounts_every: int = 0  # one in so many answers is late, the metrics say
    leak_bytes: int = 0  # an answer
    lost_descriptors: int = 0  # an answer
    lost_threads: int = 0  # an answer


@dataclass
class ScriptedService:
    """One worker, a short line, refusals beyond it."""

    server: ScriptedServer
    flaws: Flaws = field(default_factory=Flaws)
    seconds_each: float = 0.005
    line_limit: int = 12
    refuses_for_seconds: float = 0.0  # from the first prediction after the warm-up, so that somebody comes back
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._worker = asyncio.Lock()
        self._opened_at = 0.0
        self.server.script = self.answer
        self.server.on_departure = self._departed
        self._tell()

    async def answer(self, number: int) -> Reply:
        """The script."""
        body_bytes = self.server.body_bytes[number]
        if self._refuses(number):
            self.counts["refused"] += 1
            return Reply(503, b"{}", {"Retry-After": str(math.ceil(self.refuses_for_seconds) or 1)})
        self.counts["line"] += 1
        try:
            async with self._worker:
                await asyncio.sleep(self._seconds(body_bytes))
        finally:
            self.counts["line"] -= 1
        self.counts["pictures"] += 1
        self.counts["answered"] += 1
        if self.flaws.unready_after and self.counts["answered"] > self.flaws.unready_after:
            self.server.ready = Reply(503, b"{}")
        self._tell()
        return Reply()

    def _refuses(self, number: int) -> bool:
        flaws = self.flaws
        return (
            self.counts["line"] >= self.line_limit
            or self._is_new(number)
            or bool(flaws.refuses_every and not number % flaws.refuses_every)
            or bool(flaws.refuses_who_comes_back and self.counts["refused"])
        )

    def _is_new(self, number: int) -> bool:
        if number < WARM_UP_REQUESTS:
            return False
        self._opened_at = self._opened_at or time.monotonic()
        return time.monotonic() - self._opened_at < self.refuses_for_seconds

    def _seconds(self, body_bytes: int) -> float:
        if self.flaws.answers_late:
            return 0.25
        if self.flaws.small_wait_for_large and body_bytes > LARGE_BYTES:
            return 1.0
        if self.flaws.gets_slow_after and self.counts["answered"] > self.flaws.gets_slow_after:
            return 0.3
        if self.flaws.slow_beside_connections and self.server.open_connections > self.flaws.slow_beside_connections:
            return 0.3
        return self.seconds_each

    def _departed(self) -> None:
        self.counts["departed"] += 1
        self.counts["pictures"] += self.flaws.works_for_the_departed
        self._tell()

    def _tell(self) -> None:
        answered = self.counts["answered"]
        self.server.metrics_text = METRICS.format(
            within=answered - (answered // self.flaws.miscounts_every if self.flaws.miscounts_every else 0),
            answered=answered,
            pictures=self.counts["pictures"],
            departed=self.counts["departed"],
            resident=2e8 + self.flaws.leak_bytes * answered,
            descriptors=30 + self.flaws.lost_descriptors * answered,
            threads=8 + self.flaws.lost_threads * answered,
        )
