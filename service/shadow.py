"""The candidate behind the answers: a share of the answered pictures goes through it too, and both are compared.

It never delays or changes an answer: it begins when the answer is on its way, in one thread of the lowest priority, a
few pictures wait at most, and under load nothing does. Its failures are counted and otherwise forgotten, pictures too.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, Protocol

from model_store.contract.manifest import Manifest
from service.analysis import Analysis, Timed, is_valid, timed
from service.decode import decode
from service.engine import PictureOutput
from service.errors import NotFoundError
from service.loading import LoadedModel
from service.log import log
from service.registry import Registry
from service.schemas import ShadowReport
from service.shadow_tally import Compared, ShadowTally

ShadowDropReason = Literal["busy", "queue_full", "failed"]
_WAITING_LIMIT = 4


class ShadowObserver(Protocol):
    """What the shadow reports; the metrics implement it."""

    def shadow_compared(self, compared: Compared) -> None:
        """A picture went through both."""

    def shadow_dropped(self, reason: ShadowDropReason) -> None:
        """A picture of the share did not."""


@dataclass(frozen=True)
class Sample:
    """A picture of the share. `body` is kept only where the candidate prepares pictures in another way."""

    serving: LoadedModel
    candidate: LoadedModel
    body: bytes | None


class Shadow:
    """`is_quiet` tells whether nobody waits; `thread` has one thread; `share` of the pictures are compared."""

    def __init__(
        self,
        registry: Registry,
        observer: ShadowObserver,
        thread: Executor,
        *,
        share: float,
        is_quiet: Callable[[], bool],
        pixel_limit: int,
    ) -> None:
        self._registry, self._observer, self._thread = registry, observer, thread
        self._share, self._is_quiet, self._pixel_limit = share, is_quiet, pixel_limit
        self._due = 0.0
        self._waiting: asyncio.Queue[tuple[Sample, Analysis]] = asyncio.Queue(_WAITING_LIMIT)
        self._tally: ShadowTally | None = None

    def sample(self, model: LoadedModel, body: bytes) -> Sample | None:
        """Whether this picture is one of the share: every so many, of those that the serving version answers."""
        lineup = self._registry.lineup
        if lineup.shadow is None or model is not lineup.serving:
            return None
        self._due += self._share
        if self._due < 1:
            return None
        self._due -= 1
        same = lineup.shadow.manifest.preprocessing == model.manifest.preprocessing
        return Sample(model, lineup.shadow, None if same else body)

    def answered(self, sample: Sample, analysis: Analysis) -> None:
        """The picture has its answer: compare, once that has been sent, if there is nothing better to do."""
        asyncio.get_running_loop().call_soon(self._queue, sample, analysis)

    def report(self) -> ShadowReport:
        """What was found since this candidate stands beside this version. Raises NotFoundError without a candidate."""
        lineup = self._registry.lineup
        if lineup.serving is None or lineup.shadow is None:
            raise NotFoundError("no version runs in the shadow: the store has no candidate, or the share is 0")
        return self._tally_of(lineup.serving, lineup.shadow).report()

    async def run(self) -> None:
        """Compare what waits, one by one, until cancelled."""
        while True:
            sample, analysis = await self._waiting.get()
            await self._compare(sample, analysis)
            del sample, analysis  # while it waits for the next it keeps no model in memory

    def _queue(self, sample: Sample, analysis: Analysis) -> None:
        if not self._is_quiet():
            self._drop(sample, "busy")
            return
        try:
            self._waiting.put_nowait((sample, analysis))
        except asyncio.QueueFull:
            self._drop(sample, "queue_full")

    async def _compare(self, sample: Sample, analysis: Analysis) -> None:
        if not self._is_quiet():
            self._drop(sample, "busy")
            return
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, _through_candidate, sample, analysis, self._pixel_limit)
        except Exception as error:  # the candidate's trouble is nobody else's
            log(logging.WARNING, "shadow failed", exc_info=error)
            self._drop(sample, "failed")
            return
        if self._is_current(sample):
            compared = _compared(sample, analysis, found)
            self._observer.shadow_compared(compared)
            self._tally_of(sample.serving, sample.candidate).add(compared)

    def _drop(self, sample: Sample, reason: ShadowDropReason) -> None:
        if self._is_current(sample):
            self._observer.shadow_dropped(reason)
            self._tally_of(sample.serving, sample.candidate).drop(failed=reason == "failed")

    def _is_current(self, sample: Sample) -> bool:
        """A picture of before a swap tells nothing of the present pair."""
        lineup = self._registry.lineup
        return sample.serving is lineup.serving and sample.candidate is lineup.shadow

    def _tally_of(self, serving: LoadedModel, candidate: LoadedModel) -> ShadowTally:
        """Begun anew with another pair of versions."""
        pair = (serving.identity, candidate.identity)
        if self._tally is None or self._tally.pair != pair:
            self._tally = ShadowTally(pair)
        return self._tally


def _through_candidate(sample: Sample, analysis: Analysis, pixel_limit: int) -> Timed[PictureOutput]:
    """In the shadow's thread."""
    model, tensor = sample.candidate, analysis.picture.tensor
    if sample.body is not None:
        tensor = decode(sample.body, model.manifest.preprocessing, pixel_limit).tensor
    found = timed(lambda: model.engine.infer(tensor[None]).rows()[0])
    if not is_valid(found.result):
        raise ValueError("the candidate gave no valid answer")
    return found


def _compared(sample: Sample, analysis: Analysis, found: Timed[PictureOutput]) -> Compared:
    serving, candidate = sample.serving, sample.candidate
    ours = _probabilities(analysis.network.result, serving.manifest)
    theirs = _probabilities(found.result, candidate.manifest)
    # Processor time is not what a busy machine makes of it; with several threads a session no thread knows it. Those of
    # a lone picture share its work evenly.
    single = serving.choice.threads_per_session == 1
    processor_seconds = analysis.network.processor_seconds * analysis.inference_threads
    seconds = processor_seconds if single else analysis.network.seconds
    return Compared(
        same_first_diagnosis=max(ours, key=ours.__getitem__) == max(theirs, key=theirs.__getitem__),
        distance=max(abs(ours.get(code, 0.0) - theirs.get(code, 0.0)) for code in {*ours, *theirs}),
        serving_malignant=_is_malignant(ours, serving.manifest),
        candidate_malignant=_is_malignant(theirs, candidate.manifest),
        serving_seconds=seconds / analysis.inference_batch_size,
        candidate_seconds=found.processor_seconds if single else found.seconds,
    )


def _probabilities(output: PictureOutput, manifest: Manifest) -> dict[str, float]:
    return dict(zip(manifest.classes, map(float, output.probabilities), strict=True))


def _is_malignant(probabilities: dict[str, float], manifest: Manifest) -> bool:
    malignant = zip(probabilities.values(), manifest.malignant, strict=True)
    return sum(p for p, bad in malignant if bad) >= manifest.malignancy.threshold
