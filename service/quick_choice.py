"""The engine of a version that is loaded while another one serves: measuring must not take the machine from callers."""

import logging
from dataclasses import replace

from model_store.contract.manifest import VariantName
from model_store.store import ModelVersion
from service.choice import Choice, Measured, choose
from service.engine import Engine, SelfTestError
from service.log import log
from service.tuning import batch_job

_RUNS = 3


def engine_beside(version: ModelVersion, running: Choice, known: Choice | None) -> tuple[Engine, Choice]:
    """An engine for the threads of the `running` one; `known` is what was chosen for this version on this machine.

    The number format that was fastest for the running network is taken for the new one too, as far as its answers are
    right. Raises SelfTestError when those of no variant are.
    """
    first = (known or running).variant
    refused: dict[VariantName, str] = {}
    for variant in [first] if "variant" in running.set_by_hand else _in_order(first, version):
        try:
            if variant not in version.manifest.variants:
                raise SelfTestError(f"{version.manifest.name} {version.manifest.version} has no variant {variant}")
            engine = Engine(version, variant, running.threads_per_session, running.workers)
        except SelfTestError as error:
            refused[variant] = str(error)
        else:
            break
    else:
        raise SelfTestError("; ".join(refused.values()))
    for variant, reason in refused.items():
        log(logging.WARNING, f"{variant} refused, {engine.variant} serves", reason=reason)
    if known and _same_threads(known, running) and known.variant == engine.variant:
        choice = replace(known, cached=True, refused={**known.refused, **refused})
    else:
        measured = choose([_measured(version, engine, running)], refused, running.set_by_hand)
        choice = replace(measured, threads_alone=running.threads_alone, quick=True)
    return engine, choice


def _in_order(first: VariantName, version: ModelVersion) -> list[VariantName]:
    return [first, *(variant for variant in version.manifest.variants if variant != first)]


def _same_threads(one: Choice, other: Choice) -> bool:
    return _threads(one) == _threads(other)


def _threads(choice: Choice) -> tuple[int, int, int]:
    return choice.threads_per_session, choice.workers, choice.threads_alone


def _measured(version: ModelVersion, engine: Engine, running: Choice) -> Measured:
    """Single pictures."""
    job = batch_job(engine, version)
    best = min((job(1) for _ in range(_RUNS)), key=lambda run: run.whole_seconds)
    return Measured(
        variant=engine.variant,
        threads_per_session=running.threads_per_session,
        workers=running.workers,
        batch_size=1,
        inference_seconds=best.inference_seconds,
        pictures_per_second=running.workers / best.whole_seconds,
        alone_seconds=best.whole_seconds,
        rounds=1,
    )
