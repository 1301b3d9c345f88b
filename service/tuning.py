"""The engine that serves is the best that was measured: variant, threads per session, sessions in parallel, batches.

A session of one thread is measured in processor time: what else the machine runs, the service that is about to be
replaced perhaps, does not count. Sessions of several threads wait for each other, so theirs is wall time, and a busy
machine speaks against them.
"""

import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from model_store.contract.golden import preprocess_encoded, read_golden
from model_store.contract.manifest import Manifest, VariantName
from model_store.store import ModelVersion
from service.choice import Candidate, Choice, Measured, Wishes, choose
from service.choice_cache import ChoiceCache
from service.engine import Engine, SelfTestError
from service.log import log
from service.machine import Machine
from service.memory import give_memory_back

_BATCH_SIZES = (1, 2, 4, 8)
_VARIANTS: tuple[VariantName, ...] = ("fp32", "int8")
# Each session of several threads holds the weights once more: more than this many are not worth their memory.
_SESSIONS_MAX = 8
_ROUNDS = 3
_SLICE_SECONDS = 0.04
_RUNS_PER_SLICE = 8
# A busy machine gets fewer rounds instead of a much later start; there are three measurements.
_PATIENCE_SECONDS = 1.5
# A candidate this far behind when pictures come one by one is not ahead in any batch size.
_CONTENDER = 0.8


class Setup(NamedTuple):
    """What one measurement runs: so many workers at once, each with batches of one size."""

    candidate: Candidate
    at_once: int
    batch_size: int


class Run(NamedTuple):
    """One batch: decoded and put through the network; and the share of the network."""

    whole_seconds: float
    inference_seconds: float


Slice = list[Run]
Job = Callable[[int], Run]  # of a batch size


def tuned_engine(
    version: ModelVersion, wishes: Wishes, machine: Machine, cache: ChoiceCache | None
) -> tuple[Engine, Choice]:
    """The engine for this machine: as remembered from an earlier start, or else measured (some seconds).

    Whatever is chosen has answered its golden vectors rightly in this process. Raises SelfTestError when nothing does.
    """
    remembered = cache.recall(machine, version.digest, wishes) if cache else None
    if remembered:
        try:
            return _serving(version, replace(remembered, cached=True))
        except SelfTestError as error:  # right when it was measured, wrong now: do not trust the rest of it either
            log(logging.WARNING, "remembered choice fails its self-test", reason=str(error))
    choice = measured_choice(version, wishes, machine.cores)
    if cache and all(m.rounds == _ROUNDS for m in choice.measured):  # a busy moment is not to be remembered
        cache.remember(machine, version.digest, wishes, choice)
    engine, choice = _serving(version, choice)
    engine.shrink()  # the largest batches of all candidates have taken more than serving does
    give_memory_back()
    return engine, choice


def measured_choice(version: ModelVersion, wishes: Wishes, cores: int) -> Choice:
    """Measure what `wishes` leave open and take the best. Raises SelfTestError when no variant answers rightly."""
    engines, refused = _engines(version, wishes, cores)
    if not engines:
        raise SelfTestError("; ".join(refused.values()))
    jobs = {candidate: batch_job(engine, version) for candidate, engine in engines.items()}
    one_by_one = [Setup(candidate, min(candidate.workers, cores), 1) for candidate in jobs]
    slices = _measure(jobs, one_by_one)
    enough = _CONTENDER * max(_pictures_per_second(setup, slices[setup]) for setup in one_by_one)
    contenders = [setup for setup in one_by_one if _pictures_per_second(setup, slices[setup]) >= enough]
    sizes = [size for size in _BATCH_SIZES[1:] if size <= wishes.max_batch_size]
    batches = [setup._replace(batch_size=size) for setup in contenders for size in sizes]
    slices |= _measure(jobs, batches)
    # Of these the best moment counts, so there must be more of them.
    alone = _measure(jobs, [Setup(candidate, 1, 1) for candidate in jobs], slice_seconds=2 * _SLICE_SECONDS)
    measured = [_measured(s, slices[s], alone[Setup(s.candidate, 1, 1)]) for s in one_by_one + batches]
    return choose(measured, refused, wishes.set_by_hand)


def _serving(version: ModelVersion, choice: Choice) -> tuple[Engine, Choice]:
    """The chosen engine, made anew: those that were measured are gone."""
    engine = Engine(version, choice.variant, choice.threads_per_session, choice.workers)
    engine.add_session_alone(version, choice.threads_alone)
    for variant, reason in choice.refused.items():
        log(logging.WARNING, f"{variant} refused, {choice.variant} serves", reason=reason)
    log(
        logging.INFO,
        "engine chosen",
        variant=choice.variant,
        threads_per_session=choice.threads_per_session,
        workers=choice.workers,
        threads_alone=engine.threads_alone,
        batching_gain=round(choice.batching_gain, 2),
        pictures_per_second=round(choice.pictures_per_second, 1),
        cached=choice.cached,
        set_by_hand=choice.set_by_hand,
    )
    return engine, choice


def _engines(
    version: ModelVersion, wishes: Wishes, cores: int
) -> tuple[dict[Candidate, Engine], dict[VariantName, str]]:
    """An engine for each candidate; and by variant, why its answers are not trusted here.

    Processors without dot products of bytes may round int8 sums differently: the golden vectors find that out.
    """
    engines: dict[Candidate, Engine] = {}
    refused: dict[VariantName, str] = {}
    for variant in _variants(version.manifest, wishes):
        try:
            for threads, workers in _layouts(wishes, cores):
                engines[Candidate(variant, threads, workers)] = Engine(version, variant, threads, workers)
        except SelfTestError as error:
            refused[variant] = str(error)
    return {c: engine for c, engine in engines.items() if c.variant not in refused}, refused


def _variants(manifest: Manifest, wishes: Wishes) -> list[VariantName]:
    if wishes.variant == "auto":
        return [variant for variant in _VARIANTS if variant in manifest.variants]
    if wishes.variant not in manifest.variants:
        raise SelfTestError(f"{manifest.name} {manifest.version} has no variant {wishes.variant}")
    return [wishes.variant]


def _layouts(wishes: Wishes, cores: int) -> list[tuple[int, int]]:
    """Threads per session and workers that keep all cores at work; what is fixed by hand stays."""
    by_hand = wishes.threads_per_session
    threads = [by_hand] if by_hand else sorted({2**power for power in range(cores.bit_length())} | {cores})
    layouts = [(count, wishes.workers or max(1, cores // count)) for count in threads]
    return [
        (count, workers)
        for count, workers in layouts
        if count == 1 or by_hand or (workers <= _SESSIONS_MAX and count * workers <= cores)
    ]


def batch_job(engine: Engine, version: ModelVersion) -> Job:
    """What a worker does for a batch: decode each picture, then the network. It tells processor seconds where one
    thread computes, else wall seconds.
    """
    clock = time.thread_time if engine.threads_per_session == 1 else time.perf_counter
    manifest = version.manifest
    by_size = sorted(read_golden(version.read(manifest.golden.file)).pictures, key=len)
    picture = by_size[len(by_size) // 2]

    def job(batch_size: int) -> Run:
        started = clock()
        images = np.stack([preprocess_encoded(picture, manifest.preprocessing) for _ in range(batch_size)])
        decoded = clock()
        engine.infer(images)
        ended = clock()
        return Run(ended - started, ended - decoded)

    return job


def _measure(
    jobs: Mapping[Candidate, Job], setups: Iterable[Setup], slice_seconds: float = _SLICE_SECONDS
) -> dict[Setup, list[Slice]]:
    """All setups in turn, round by round, so that what disturbs the machine disturbs them all."""
    slices: dict[Setup, list[Slice]] = {setup: [] for setup in setups}
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        for setup, found in slices.items():
            found.append(_slice(jobs[setup.candidate], setup, slice_seconds))
        if time.perf_counter() - begun > _PATIENCE_SECONDS:
            break
    return slices


def _slice(job: Job, setup: Setup, seconds: float) -> Slice:
    """Its threads begin at once and go on for so long."""
    together = threading.Barrier(setup.at_once)

    def work() -> Slice:
        together.wait()
        begun = time.perf_counter()
        runs = [job(setup.batch_size)]
        while len(runs) < _RUNS_PER_SLICE and time.perf_counter() - begun < seconds:
            runs.append(job(setup.batch_size))
        return runs

    with ThreadPoolExecutor(setup.at_once) as threads:
        working = [threads.submit(work) for _ in range(setup.at_once)]
        return [run for worker in working for run in worker.result()]


def _pictures_per_second(setup: Setup, slices: Sequence[Slice]) -> float:
    return setup.at_once * setup.batch_size / statistics.median(run.whole_seconds for runs in slices for run in runs)


def _measured(setup: Setup, slices: Sequence[Slice], alone: Sequence[Slice]) -> Measured:
    return Measured(
        variant=setup.candidate.variant,
        threads_per_session=setup.candidate.threads_per_session,
        workers=setup.candidate.workers,
        batch_size=setup.batch_size,
        inference_seconds=statistics.median(run.inference_seconds for runs in slices for run in runs),
        pictures_per_second=_pictures_per_second(setup, slices),
        alone_seconds=min(run.whole_seconds for runs in alone for run in runs),
        rounds=min(len(slices), len(alone)),
    )
