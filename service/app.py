"""Composition root: every part is made and joined here, once."""

import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.admission import Admission
from service.batcher import Batcher
from service.lifecycle import Lifecycle
from service.log import log
from service.metrics import Metrics
from service.middleware import Observe
from service.predictor import Predictor
from service.problems import install_problem_handlers
from service.registry import LoadedModel, Registry
from service.routes import health, metrics, models, page, predictions
from service.settings import Settings

_DESCRIPTION = (
    "Classifies dermatoscopic pictures of skin lesions: the two most probable of seven diagnoses, all probabilities, "
    "the probability of malignancy, and a decision: refer, low risk, or abstain with reasons. Pictures are analysed in "
    "memory, never stored, never sent on. "
    "Research software, not a medical device: every answer is preliminary until a doctor decides."
)
# A first guess of how long decoding takes beside one run of the network; observation replaces it within seconds.
_DECODE_SHARE = 2.0
_WORKER_NICENESS = 10  # about a ninth of the event loop's share of a contended core


@dataclass(frozen=True)
class Services:
    """What the routes use."""

    registry: Registry
    predictor: Predictor


def create_app(settings: Settings, registry: Registry, lifecycle: Lifecycle | None = None) -> FastAPI:
    """The application around a registry. Without a loaded model it answers 503 `model_not_ready`."""
    service_metrics = Metrics(settings.max_batch_size)
    states = lifecycle or Lifecycle()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running_services(settings, registry, service_metrics) as services:
            app.state.services = services
            yield

    app = FastAPIOffline(
        title="dermserve",
        version="1",
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.settings, app.state.metrics, app.state.lifecycle = settings, service_metrics, states
    install_problem_handlers(app, service_metrics)
    for routes in (predictions, models, health, metrics, page):
        app.include_router(routes.router)
    app.add_middleware(Observe, metrics=service_metrics, lifecycle=states)
    return app


@asynccontextmanager
async def _running_services(settings: Settings, registry: Registry, observer: Metrics) -> AsyncIterator[Services]:
    """Threads, batcher and predictor for as long as the application runs; at the end every batch is finished."""
    loaded = registry.loaded
    pace_seconds = 0.0
    if loaded is not None:
        observer.model_loaded(loaded.identity, loaded.manifest.classes)
        pace_seconds = _DECODE_SHARE * _inference_seconds(loaded) / settings.inference_threads
        log(logging.INFO, "model serves", **loaded.identity.model_dump())
    with (
        ThreadPoolExecutor(settings.decode_threads, "decode", _yield_to_event_loop) as decoders,
        ThreadPoolExecutor(settings.inference_threads, "inference", _yield_to_event_loop) as inferrers,
    ):
        batcher = Batcher(
            lambda images: registry.current().engine.infer(images),
            inferrers,
            observer,
            workers=settings.inference_threads,
            max_batch_size=settings.max_batch_size,
            max_queue_size=settings.max_queue_size,
        )
        admission = Admission(time.monotonic, pace_seconds, settings.bytes_in_flight_limit_bytes)
        predictor = Predictor(registry, admission, decoders, batcher, observer, settings)
        yield Services(registry, predictor)
        await batcher.drain()


def _yield_to_event_loop() -> None:
    """Let the event loop run before this worker thread: refusals and health checks stay fast when all cores are busy.

    Linux gives each thread its own priority; elsewhere nothing is changed, as it would be the whole process's.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _WORKER_NICENESS)


def _inference_seconds(loaded: LoadedModel) -> float:
    """Median time of one picture through the warmed network."""
    contract = loaded.manifest.preprocessing
    picture = np.zeros((1, contract.height, contract.width, 3), np.uint8)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        loaded.engine.infer(picture)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
