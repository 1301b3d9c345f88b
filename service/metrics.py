"""Prometheus metrics. Names end in their base unit; the promise's 3 seconds are an exact bucket edge.

Series whose labels are known exist from the start: an alert on an increase would miss the first event of a new one.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.batcher import DropReason
from service.choice import Choice
from service.errors import ERRORS, OverloadedError, OverloadReason, ServiceError
from service.loading import LoadedModel
from service.schemas import Decision, Prediction, QualityProblem, Reason, ServingModel
from service.version_metrics import VersionMetrics

TARGET_SECONDS = 3.0
# In this order they make up dermserve_prediction_duration_seconds; `queue` is all time spent in line: for a worker, for
# those in the same batch, for the event loop.
STAGES = ("receive", "decode", "preprocess", "queue", "inference", "interpret", "explain", "respond")
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, TARGET_SECONDS, 3.5, 5.0, 10.0)
_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, *_LATENCY_BUCKETS)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_RATIO_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_PREDICTIONS = "/v1/predictions"


class Metrics:
    """All metrics of one service, in their own registry (so that tests can have many)."""

    def __init__(self, max_batch_size: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nothing here reads
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge("process_threads", "Threads of the process, those of libraries too.", registry=registry).set_function(
            _threads
        )
        self._http = _Http(registry)
        self._answers = _Answers(registry)
        self._failures = _Failures(registry)
        self._serving = _Serving(registry)
        self._engine = _Engine(registry)
        self.versions = VersionMetrics(registry, self._model_serves)
        self.admission = _Admission(registry)
        self.line, self.slow_lane = _lanes(registry)
        self.requests_in_flight = Gauge(
            "dermserve_requests_in_flight", "HTTP requests being worked on.", registry=registry
        )
        self.bytes_in_flight = Gauge("dermserve_bytes_in_flight", "Request bodies in memory.", registry=registry)
        self.abandoned = Counter(
            "dermserve_abandoned", "Predictions whose caller left before the answer.", registry=registry
        )
        self.event_loop_lag = Histogram(
            "dermserve_event_loop_lag_seconds",
            "How late the event loop wakes a task that sleeps.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        Gauge("dermserve_max_batch_size", "Largest batch.", registry=registry).set(max_batch_size)

    def _model_serves(self, loaded: LoadedModel) -> None:
        self._serving.show(loaded.identity)
        self._answers.expect(loaded.manifest.classes)
        self._engine.show(loaded.choice)

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """One HTTP request was answered."""
        self._http.count(route, method, status, seconds)

    def predicted(self, prediction: Prediction, stage_seconds: Mapping[str, float], seconds: float) -> None:
        """A picture was answered, `seconds` after its request's head; `stage_seconds` are their parts, by STAGES."""
        self._answers.count(prediction, stage_seconds, seconds)

    def refused(self, error: ServiceError) -> None:
        """A prediction ended with this error."""
        self._failures.count(error)


class _Http:
    """Requests of all routes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "dermserve_requests", "Answered HTTP requests.", ("route", "method", "status"), registry=registry
        )
        self._duration = Histogram(
            "dermserve_request_duration_seconds",
            "From the request's head to the end of its answer.",
            ("route",),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        for status in {200, *(error.status for error in ERRORS)}:
            self._requests.labels(_PREDICTIONS, "POST", str(status))

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._duration.labels(route).observe(seconds)


class _Answers:
    """Predictions answered with 200: how long they took, and what they said."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "dermserve_prediction_duration_seconds",
            "From the request's head to the answer, of predictions answered with 200.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        stages = Histogram(
            "dermserve_stage_duration_seconds",
            "One stage of a prediction answered with 200; the stages' sums add up to that of the whole.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._count = self._count_in_time = 0
        self._within_target = Gauge(
            "dermserve_within_target_ratio",
            "Share of all predictions answered with 200 since the start that took at most 3 s.",
            registry=registry,
        )
        self._within_target.set(1)
        self._classes = _counter(registry, "predictions", "Answers with diagnoses, by most probable class.", "code")
        self._decisions = _counter(registry, "decisions", "Answers by decision.", "decision", get_args(Decision))
        self._gate_rejections = _counter(
            registry,
            "gate_rejections",
            "Abstentions; one may have several reasons.",
            "reason",
            set(get_args(Reason)) - {"malignancy"},
        )
        self._quality_problems = _counter(
            registry,
            "quality_problems",
            "What was wrong with pictures of poor quality.",
            "problem",
            get_args(QualityProblem),
        )

    def expect(self, classes: Sequence[str]) -> None:
        for code in classes:
            self._classes.labels(code)

    def count(self, prediction: Prediction, stage_seconds: Mapping[str, float], seconds: float) -> None:
        for stage, part in stage_seconds.items():
            self._stages[stage].observe(part)
        self._duration.observe(seconds)
        self._count += 1
        self._count_in_time += seconds <= TARGET_SECONDS
        self._within_target.set(self._count_in_time / self._count)
        self._decisions.labels(prediction.decision).inc()
        if prediction.diagnoses:
            self._classes.labels(prediction.diagnoses[0].code).inc()
        if prediction.decision == "abstain":
            for reason in prediction.reasons:
                self._gate_rejections.labels(reason).inc()
        for problem in prediction.quality.problems:
            self._quality_problems.labels(problem).inc()


class _Failures:
    """Predictions answered otherwise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        codes = [error.code for error in ERRORS]
        self._codes = _counter(registry, "refusals", "Predictions refused or failed, by error code.", "code", codes)
        self._overload = _counter(
            registry,
            "overload_refusals",
            "Refusals with the code `overloaded`, by what was too much.",
            "reason",
            get_args(OverloadReason),
        )

    def count(self, error: ServiceError) -> None:
        self._codes.labels(error.code).inc()
        if isinstance(error, OverloadedError):
            self._overload.labels(error.reason).inc()


class _Admission:
    """AdmissionObserver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refusing = Gauge("dermserve_refusing", "1 in a phase of refusing: busy, not broken.", registry=registry)
        self._ratio = Histogram(
            "dermserve_finish_prediction_ratio",
            "Actual over predicted time of admitted predictions.",
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )

    def finish_predicted(self, actual_over_predicted: float) -> None:
        self._ratio.observe(actual_over_predicted)

    def refusing_changed(self, refusing: bool) -> None:
        self._refusing.set(refusing)


class _Lane:
    """BatchObserver of one lane."""

    def __init__(self, length: Gauge, dropped: Counter, left_in_work: Counter) -> None:
        self._length, self._dropped, self._left_in_work = length, dropped, left_in_work

    def queue_changed(self, length: int) -> None:
        self._length.set(length)

    def batch_ran(self, size: int) -> None:
        """The slow lane's single pictures are counted when they come to the network."""

    def batch_failed(self) -> None:
        """In the slow lane the picture's own error tells."""

    def dropped(self, reason: DropReason) -> None:
        self._dropped.labels(reason).inc()

    def left_in_work(self) -> None:
        self._left_in_work.inc()


class _Line(_Lane):
    """BatchObserver of the workers' line, whose batches are the network's."""

    def __init__(
        self, length: Gauge, dropped: Counter, left_in_work: Counter, sizes: Histogram, failures: Counter
    ) -> None:
        super().__init__(length, dropped, left_in_work)
        self._sizes, self._failures = sizes, failures

    def batch_ran(self, size: int) -> None:
        self._sizes.observe(size)

    def batch_failed(self) -> None:
        self._failures.inc()


def _lanes(registry: CollectorRegistry) -> tuple[_Line, _Lane]:
    """Of the workers' line and of the slow lane, which share some metrics."""
    length = Gauge(
        "dermserve_queue_length",
        "Pictures waiting: for a worker, for the slow lane; without the batch that lies ready for the next worker.",
        ("lane",),
        registry=registry,
    )
    dropped = _counter(
        registry,
        "dropped",
        "Pictures that left a lane before a thread took them: their deadline passed, or their caller left.",
        "reason",
        get_args(DropReason),
    )
    sizes = Histogram("dermserve_batch_size", "Pictures in a batch.", buckets=_BATCH_BUCKETS, registry=registry)
    failures = Counter("dermserve_batch_failures", "Batches that the network failed on.", registry=registry)
    in_work = Counter(
        "dermserve_abandoned_in_work", "Callers who left in time while a thread had their picture.", registry=registry
    )
    line = _Line(length.labels("line"), dropped, in_work, sizes, failures)
    return line, _Lane(length.labels("slow"), dropped, in_work)


class _Serving:
    """The version that serves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            "dermserve_model_info",
            "The version that serves.",
            ("name", "version", "digest", "variant"),
            registry=registry,
        )
        self._ready = Gauge("dermserve_model_ready", "1 while a verified model serves.", registry=registry)

    def show(self, model: ServingModel) -> None:
        self._info.clear()
        self._info.labels(model.name, model.version, model.digest, model.variant).set(1)
        self._ready.set(1)


class _Engine:
    """What was measured of the engine that serves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            "dermserve_engine_info",
            "The engine that serves.",
            ("variant", "threads_per_session", "workers"),
            registry=registry,
        )
        self._batching_gain = Gauge(
            "dermserve_engine_batching_gain",
            "Pictures a second of the network in its best batch size, over those one by one; measured.",
            registry=registry,
        )
        self._pictures_per_second = Gauge(
            "dermserve_engine_pictures_per_second",
            "Pictures decoded and put through the network by all workers together; measured.",
            registry=registry,
        )
        self._inference_seconds = Gauge(
            "dermserve_engine_inference_seconds",
            "One batch in the network while all workers are busy; measured.",
            ("batch_size",),
            registry=registry,
        )

    def show(self, choice: Choice) -> None:
        self._info.clear()
        self._info.labels(choice.variant, str(choice.threads_per_session), str(choice.workers)).set(1)
        self._batching_gain.set(choice.batching_gain)
        self._pictures_per_second.set(choice.pictures_per_second)
        self._inference_seconds.clear()
        for batch_size, seconds in choice.inference_seconds.items():
            self._inference_seconds.labels(str(batch_size)).set(seconds)


def _threads() -> int:
    """Python knows only its own; Linux knows all."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return threading.active_count()


def _counter(registry: CollectorRegistry, name: str, meaning: str, label: str, known: Iterable[str] = ()) -> Counter:
    """A counter with one label, of which these values are known."""
    counter = Counter(f"dermserve_{name}", meaning, (label,), registry=registry)
    for value in known:
        counter.labels(value)
    return counter
