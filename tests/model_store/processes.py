"""Publishers and readers as processes of their own, to be killed like any other.

They are forked from a server that has imported the store and never used it, so one costs milliseconds.
"""

import functools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from model_store.errors import NotInStoreError
from model_store.store import ModelStore
from tests.model_store.builders import FILES, fields

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pytest", "model_store.object_storage", "tests.model_store.processes"])


@dataclass(frozen=True)
class Target:
    """A store as another process opens it."""

    location: str
    cache: Path
    environment: Mapping[str, str]
    abandoned_after_seconds: float = 3600.0

    def store(self) -> ModelStore:
        """In the process that calls; the environment stays set."""
        os.environ.update(self.environment)
        return ModelStore(self.location, self.cache, abandoned_after_seconds=self.abandoned_after_seconds)

    def publisher(self, die_at_step: int | None = None, die_at_call: int | None = None) -> BaseProcess:
        """A process that publishes once, started; it kills itself at the n-th step, or writing system call."""
        process = _PROCESSES.Process(target=_publish, args=(self, die_at_step, die_at_call))
        process.start()
        return process

    def reader(self) -> BaseProcess:
        """A process that verifies every visible version; exit code 0 when all are whole and their numbers 1, 2, ..."""
        process = _PROCESSES.Process(target=_read, args=(self,))
        process.start()
        return process


def _publish(target: Target, die_at_step: int | None, die_at_call: int | None) -> None:
    steps = 0

    def step(_: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    _die_at_call(die_at_call)
    target.store().publish(FILES, fields(), on_step=step)


def _die_at_call(fatal: int | None) -> None:
    """Every call that changes the file system counts, so that the steps between the steps are hit too."""
    calls = 0

    def dying(real: Callable[..., object], *arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)

    for name in ("fsync", "rename", "replace", "mkdir"):
        setattr(os, name, functools.partial(dying, getattr(os, name)))


def _read(target: Target) -> None:
    store = target.store()
    try:
        versions = store.versions("lesion7")
    except NotInStoreError:
        return
    for version in versions:
        store.verify("lesion7", version)
    if versions != [str(n + 1) for n in range(len(versions))]:
        sys.exit(f"the numbers have gaps: {versions}")


def kill_at_random(target: Target, runs: int, chance: random.Random) -> tuple[int, int]:
    """(killed, finished): after every run a reader must find whole versions only. Raises AssertionError."""
    for _ in range(2):  # the first one also starts the server of processes
        started = time.monotonic()
        whole = target.publisher()
        whole.join()
    duration = time.monotonic() - started
    killed = 0
    for run in range(runs):
        publisher = target.publisher()
        publisher.join(chance.uniform(0, 1.3 * duration))
        publisher.kill()
        publisher.join()
        killed += publisher.exitcode == -signal.SIGKILL
        reader = target.reader()
        reader.join()
        assert reader.exitcode == 0, f"after run {run} a reader found a version that is not whole"
    last = target.publisher()
    last.join()
    assert last.exitcode == 0, "the next publish did not succeed"
    return killed, runs - killed
