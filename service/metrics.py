"""Prometheus metrics. Names end in their base unit; the promise's 3 seconds are an exact bucket edge."""

from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.errors import ERRORS
from service.schemas import Decision, Prediction, QualityProblem, Reason, ServingModel

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, *_LATENCY_BUCKETS)
_PREDICTIONS = "/v1/predictions"
STAGES = ("receive", "decode", "preprocess", "queue", "inference", "interpret", "explain")


class Metrics:
    """All metrics of one service, in their own registry (so that tests can have many)."""

    def __init__(self, max_batch_size: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nothing here reads
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
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
        self._stages = Histogram(
            "dermserve_stage_duration_seconds",
            "Time of one stage of a successful prediction.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)  # visible from the start, so that rates begin at zero
        self._batch_size = Histogram(
            "dermserve_batch_size", "Pictures in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._batch_failures = Counter(
            "dermserve_batch_failures", "Batches that the network failed on.", registry=registry
        )
        self._queue_length = Gauge("dermserve_queue_length", "Pictures waiting for the network.", registry=registry)
        self.requests_in_flight = Gauge(
            "dermserve_requests_in_flight", "HTTP requests being worked on.", registry=registry
        )
        self._model_info = Gauge(
            "dermserve_model_info",
            "The version that serves.",
            ("name", "version", "digest", "variant"),
            registry=registry,
        )
        self.model_ready = Gauge("dermserve_model_ready", "1 while a verified model serves.", registry=registry)
        self._predictions = Counter(
            "dermserve_predictions", "Answers with diagnoses, by most probable class.", ("code",), registry=registry
        )
        self._decisions = Counter("dermserve_decisions", "Answers by decision.", ("decision",), registry=registry)
        self._gate_rejections = Counter(
            "dermserve_gate_rejections", "Abstentions; one may have several reasons.", ("reason",), registry=registry
        )
        self._quality_problems = Counter(
            "dermserve_quality_problems",
            "What was wrong with pictures of poor quality.",
            ("problem",),
            registry=registry,
        )
        self._refusals = Counter(
            "dermserve_refusals", "Predictions refused or failed, by error code.", ("code",), registry=registry
        )
        # Series exist from the start: an alert on an increase would miss the first event of a new one.
        for error in ERRORS:
            self._refusals.labels(error.code)
            self._requests.labels(_PREDICTIONS, "POST", str(error.status))
        self._requests.labels(_PREDICTIONS, "POST", "200")
        for decision in get_args(Decision):
            self._decisions.labels(decision)
        for reason in set(get_args(Reason)) - {"malignancy"}:
            self._gate_rejections.labels(reason)
        for problem in get_args(QualityProblem):
            self._quality_problems.labels(problem)
        self.abandoned = Counter(
            "dermserve_abandoned", "Predictions whose caller left before the answer.", registry=registry
        )
        Gauge("dermserve_max_batch_size", "Largest batch.", registry=registry).set(max_batch_size)

    def model_loaded(self, model: ServingModel, classes: Sequence[str]) -> None:
        """This version serves from now on."""
        self._model_info.clear()
        self._model_info.labels(model.name, model.version, model.digest, model.variant).set(1)
        self.model_ready.set(1)
        for code in classes:
            self._predictions.labels(code)

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """One HTTP request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def stage_finished(self, stage: str, seconds: float) -> None:
        """One stage of a prediction; `stage` is one of STAGES."""
        self._stages.labels(stage).observe(seconds)

    def predicted(self, prediction: Prediction) -> None:
        """A picture was answered."""
        self._decisions.labels(prediction.decision).inc()
        if prediction.diagnoses:
            self._predictions.labels(prediction.diagnoses[0].code).inc()
        if prediction.decision == "abstain":
            for reason in prediction.reasons:
                self._gate_rejections.labels(reason).inc()
        for problem in prediction.quality.problems:
            self._quality_problems.labels(problem).inc()

    def refused(self, code: str) -> None:
        """A prediction ended with this error code."""
        self._refusals.labels(code).inc()

    def queue_changed(self, length: int) -> None:
        """BatchObserver."""
        self._queue_length.set(length)

    def batch_started(self, size: int) -> None:
        """BatchObserver."""
        self._batch_size.observe(size)

    def batch_failed(self) -> None:
        """BatchObserver."""
        self._batch_failures.inc()
