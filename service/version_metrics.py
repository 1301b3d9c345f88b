"""Metrics of the versions: loaded, swapped, refused; the store behind them; the candidate in the shadow."""

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.loading import LoadedModel, RefusalReason
from service.shadow import ShadowDropReason
from service.shadow_tally import Compared

_LOAD_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_DISTANCE_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_NETWORK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class VersionMetrics:
    """FollowerObserver; `serves` also tells `also` of the version."""

    def __init__(self, registry: CollectorRegistry, also: Callable[[LoadedModel], None]) -> None:
        self._also = also
        self.shadow = ShadowMetrics(registry)
        self._swaps = Counter("dermserve_model_swaps", "Times that a version began to serve.", registry=registry)
        self._refusals = Counter(
            "dermserve_model_refusals",
            "Versions that were wanted and did not pass a check.",
            ("reason",),
            registry=registry,
        )
        for reason in get_args(RefusalReason):
            self._refusals.labels(reason)
        self._load = Histogram(
            "dermserve_model_load_seconds",
            "To load and check a version while another one served.",
            buckets=_LOAD_BUCKETS,
            registry=registry,
        )
        self._in_memory = Gauge(
            "dermserve_models_in_memory",
            "Versions in memory, with those that only finish their last requests.",
            registry=registry,
        )
        self._reachable = Gauge(
            "dermserve_store_reachable", "0 while the model store does not answer.", registry=registry
        )
        self._reachable.set(1)

    def serves(self, loaded: LoadedModel) -> None:
        """This version answers from now on."""
        self._swaps.inc()
        self._also(loaded)

    def loaded_in(self, seconds: float) -> None:
        """A version has passed all checks."""
        self._load.observe(seconds)

    def refused(self, reason: RefusalReason) -> None:
        """A version has not."""
        self._refusals.labels(reason).inc()

    def store_reachable(self, reachable: bool) -> None:
        """Whether the store told where its aliases stand."""
        self._reachable.set(reachable)

    def in_memory(self, change: int) -> None:
        """A version came into memory, or its last request let go of it."""
        self._in_memory.inc(change)


class ShadowMetrics:
    """ShadowObserver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pictures = Counter(
            "dermserve_shadow_pictures", "Pictures that went through the candidate too.", registry=registry
        )
        self._same = Counter(
            "dermserve_shadow_same_first_diagnosis",
            "Of these, those on which both agree on the most probable class.",
            registry=registry,
        )
        self._flips = Counter(
            "dermserve_shadow_malignancy_flips",
            "Pictures that only one of both puts at or above its threshold, by what the candidate says.",
            ("to",),
            registry=registry,
        )
        self._distance = Histogram(
            "dermserve_shadow_probability_distance",
            "Largest difference of a probability between both.",
            buckets=_DISTANCE_BUCKETS,
            registry=registry,
        )
        seconds = Histogram(
            "dermserve_shadow_inference_seconds",
            "Processor time of one picture in the network.",
            ("model",),
            buckets=_NETWORK_BUCKETS,
            registry=registry,
        )
        self._serving_seconds, self._candidate_seconds = seconds.labels("serving"), seconds.labels("candidate")
        self._dropped = Counter(
            "dermserve_shadow_dropped",
            "Pictures of the share that were not compared: no time for them, or the candidate failed.",
            ("reason",),
            registry=registry,
        )
        for to in ("malignant", "benign"):
            self._flips.labels(to)
        for reason in get_args(ShadowDropReason):
            self._dropped.labels(reason)

    def shadow_compared(self, compared: Compared) -> None:
        """A picture went through both."""
        self._pictures.inc()
        self._same.inc(compared.same_first_diagnosis)
        if compared.candidate_malignant != compared.serving_malignant:
            self._flips.labels("malignant" if compared.candidate_malignant else "benign").inc()
        self._distance.observe(compared.distance)
        self._serving_seconds.observe(compared.serving_seconds)
        self._candidate_seconds.observe(compared.candidate_seconds)

    def shadow_dropped(self, reason: ShadowDropReason) -> None:
        """A picture of the share did not."""
        self._dropped.labels(reason).inc()
