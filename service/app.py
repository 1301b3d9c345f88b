"""Composition root: every part is made and joined here, once."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from service.admission import Admission
from service.analysis import analyse_all, decode_all
from service.batcher import Batcher
from service.choice import Choice
from service.door import Door
from service.follower import Follower
from service.lifecycle import Lifecycle
from service.log import log
from service.metrics import Metrics
from service.middleware import Observe
from service.predictor import Lanes, Predictor
from service.problems import install_problem_handlers
from service.registry import Registry
from service.routes import admin, engine, health, metrics, models, page, predictions, shadow
from service.service_times import ServiceTimes
from service.settings import Settings
from service.shadow import Shadow
from service.upload import Bodies

_DESCRIPTION = (
    "Classifies dermatoscopic pictures of skin lesions: the two most probable of seven diagnoses, all probabilities, "
    "the probability of malignancy, and a decision: refer, low risk, or abstain with reasons. Pictures are analysed in "
    "memory, never stored, never sent on. "
    "Research software, not a medical device: every answer is preliminary until a doctor decides."
)
# A worker that gets free need not wait for the event loop: 1.03 times the answers of eight callers on two cores.
_BATCHES_AHEAD = 1
# FastAPI's own OpenTelemetry would hand paths and queries to whatever exporter another package sets up: nothing leaves
# here. It also asks at each request whether there is one, a tenth of what a refusal costs.
_NO_TRACES: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
_NOTHING_MEASURED = {1: 0.01}  # without a model nothing is admitted, so nothing is predicted from it
_LAG_INTERVAL_SECONDS = 0.1
_WORKER_NICENESS = 10  # about a ninth of the event loop's share of a contended core
_IDLE_NICENESS = 19  # about an eighth of a worker's


@dataclass(frozen=True)
class Services:
    """What the routes use."""

    registry: Registry
    admission: Admission
    bodies: Bodies
    predictor: Predictor
    follower: Follower
    shadow: Shadow


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
        telemetry=_NO_TRACES,
    )
    app.state.settings, app.state.metrics, app.state.lifecycle = settings, service_metrics, states
    install_problem_handlers(app, service_metrics)
    for routes in (predictions, models, engine, shadow, admin, health, metrics, page):
        app.include_router(routes.router)
    app.add_middleware(Door, metrics=service_metrics, settings=settings)
    app.add_middleware(Observe, metrics=service_metrics, lifecycle=states)  # the last one added is the outermost
    return app


@asynccontextmanager
async def _running_services(settings: Settings, registry: Registry, observer: Metrics) -> AsyncIterator[Services]:
    """Threads, lanes and predictor for as long as the application runs; at the end every batch is finished."""
    choice = _first_choice(registry, observer)
    workers = 1 if choice is None else choice.workers
    times = ServiceTimes(_NOTHING_MEASURED if choice is None else choice.inference_seconds)
    admission = Admission(
        time.monotonic, observer.admission, workers=workers, deadline_seconds=settings.deadline_seconds
    )
    bodies = Bodies(settings.bytes_in_flight_limit_bytes, observer.bytes_in_flight.set)
    with (
        ThreadPoolExecutor(workers, "worker", partial(_lower_priority, _WORKER_NICENESS)) as worker_threads,
        ThreadPoolExecutor(1, "slow-lane", partial(_lower_priority, _WORKER_NICENESS)) as slow_thread,
        # As a worker: the sessions that it makes have threads of its priority.
        ThreadPoolExecutor(1, "loader", partial(_lower_priority, _WORKER_NICENESS)) as loader_thread,
        ThreadPoolExecutor(1, "shadow", partial(_lower_priority, _IDLE_NICENESS)) as shadow_thread,
    ):
        lanes = _lanes(settings, workers, times, observer, worker_threads, slow_thread)
        behind = _shadow(settings, registry, observer, shadow_thread, lanes, admission)
        follower = _follower(settings, registry, observer, loader_thread)
        predictor = Predictor(registry, times, admission, bodies, lanes, behind, observer, settings)
        running = [asyncio.create_task(task) for task in (_watch_event_loop(observer), follower.run(), behind.run())]
        yield Services(registry, admission, bodies, predictor, follower, behind)
        for task in running:
            task.cancel()
        await lanes.drain()


def _first_choice(registry: Registry, observer: Metrics) -> Choice | None:
    """Of the version that serves first. Nothing here may hold on to that version: one day it is swapped out."""
    loaded = registry.loaded
    if loaded is None:
        return None
    observer.versions.serves(loaded)
    log(logging.INFO, "model serves", **loaded.identity.model_dump())
    return loaded.choice


def _follower(settings: Settings, registry: Registry, observer: Metrics, thread: ThreadPoolExecutor) -> Follower:
    return Follower(
        registry,
        observer.versions,
        thread,
        alias=settings.alias,
        also_serve=settings.also_serve,
        shadow=settings.shadow_share > 0,
        poll_seconds=settings.store_poll_seconds,
    )


def _shadow(
    settings: Settings, registry: Registry, observer: Metrics, thread: Executor, lanes: Lanes, admission: Admission
) -> Shadow:
    return Shadow(
        registry,
        observer.versions.shadow,
        thread,
        share=settings.shadow_share,
        is_quiet=lambda: not (lanes.line.waiting or lanes.slow.waiting or admission.refusing),
        pixel_limit=settings.pixel_limit_pixels,
    )


def _lanes(
    settings: Settings,
    workers: int,
    times: ServiceTimes,
    observer: Metrics,
    worker_threads: Executor,
    slow_thread: Executor,
) -> Lanes:
    lanes: Lanes = Lanes(
        line=Batcher(
            partial(analyse_all, pixel_limit=settings.pixel_limit_pixels, is_alone=lambda: lanes.one_batch_in_work),
            worker_threads,
            observer.line,
            workers=workers,
            batch_limit=lambda: times.best_batch_size(settings.max_batch_size),
            queue_limit=settings.max_queue_size,
            ahead=_BATCHES_AHEAD,
        ),
        slow=Batcher(
            partial(decode_all, pixel_limit=settings.pixel_limit_pixels),
            slow_thread,
            observer.slow_lane,
            workers=1,
            batch_limit=lambda: 1,
            queue_limit=settings.max_queue_size,
        ),
    )
    return lanes


async def _watch_event_loop(observer: Metrics) -> None:
    """Measure how late the loop is, until cancelled."""
    while True:
        due = time.monotonic() + _LAG_INTERVAL_SECONDS
        await asyncio.sleep(_LAG_INTERVAL_SECONDS)
        observer.event_loop_lag.observe(max(0.0, time.monotonic() - due))


def _lower_priority(niceness: int) -> None:
    """Let the event loop run before this thread: refusals and health checks stay fast when all cores are busy.

    Linux gives each thread its own priority; elsewhere nothing is changed, as it would be the whole process's.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
