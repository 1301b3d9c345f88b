"""The request path, top to bottom: receive, admit, analyse (decode, preprocess, infer, interpret, explain), answer.

Everything that costs happens in the workers' threads; pictures that decode slowly are decoded in a lane of their own
first, and join the line as small tensors.
"""

import asyncio
import time
from dataclasses import dataclass

from service.admission import Admission
from service.analysis import Analysis, Submission
from service.arrival import Arrival
from service.batcher import Batcher
from service.decode import DecodedPicture
from service.errors import DeadlineExceededError
from service.file_header import describe
from service.loading import LoadedModel
from service.metrics import Metrics
from service.options import Options, require_known
from service.registry import Registry
from service.schemas import Prediction, Timing
from service.service_times import Cost, ServiceTimes
from service.settings import Settings
from service.shadow import Shadow
from service.upload import Bodies, Upload

_clock = time.monotonic  # a loop's own time may be milliseconds old


@dataclass(frozen=True)
class Lanes:
    """`line` is the workers'; `slow` decodes large pictures, one at a time."""

    line: Batcher[Submission, Analysis]
    slow: Batcher[Submission, DecodedPicture]

    @property
    def one_batch_in_work(self) -> bool:
        """A worker may ask, too: whether nothing is at work or waits but its own batch."""
        return self.line.running == 1 and not (self.line.waiting or self.slow.running)

    async def drain(self) -> None:
        """Wait until both are empty."""
        await self.slow.drain()
        await self.line.drain()


class Predictor:
    """Answers pictures with the model that serves when they come."""

    def __init__(
        self,
        registry: Registry,
        times: ServiceTimes,
        admission: Admission,
        bodies: Bodies,
        lanes: Lanes,
        shadow: Shadow,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._registry, self._times, self._admission, self._bodies = registry, times, admission, bodies
        self.lanes, self._shadow, self._metrics, self._settings = lanes, shadow, metrics, settings

    def admit(self, arrival: Arrival, version: str | None = None) -> None:
        """At the door, before the body is read. Raises ModelNotReadyError, NotFoundError, OverloadedError."""
        self._registry.current(version)
        self._bodies.require_room()
        self._admission.at_the_door(self._times.cost_of_bytes(arrival.declared_bytes or 0), arrival.allowed_seconds)

    async def predict(
        self, request_id: str, arrival: Arrival, upload: Upload, query: Options, version: str | None = None
    ) -> bytes:
        """The answer to a picture that has just arrived, as JSON; `query` and `version` are what the URL asks for.

        The deadline runs from here on: how fast a caller uploads is not in the service's hands.
        Raises the ServiceErrors of every stage.
        """
        received = _clock()
        model = self._registry.current(version)
        asked = query.joined(upload.options)
        require_known(asked, model.manifest.classes)
        prevalence = self._settings.prevalence if asked.prevalence is None else asked.prevalence
        submission = Submission(model, upload.picture, prevalence, asked.explain)
        sample = self._shadow.sample(model, upload.picture)
        del upload  # under load many pictures wait: keep only their small tensors
        analysis = await self._analysed(submission, arrival.deadline(received))
        analysed = _clock()
        prediction = _prediction(request_id, model, analysis, analysed - received)
        answer = prediction.model_dump_json(by_alias=True).encode()
        self._observe(prediction, analysis, arrival.at, received, analysed)
        if sample:
            self._shadow.answered(sample, analysis)
        return answer

    async def _analysed(self, submission: Submission, deadline: float) -> Analysis:
        """Through the lanes, if the ledger lets it in."""
        image_format, width, height = describe(submission.body, self._settings.pixel_limit_pixels)
        pixels, body_bytes = width * height, len(submission.body)
        cost = self._times.cost(image_format, pixels, explained=submission.explain is not None)
        with self._admission.enter(cost, deadline) as work:
            try:
                analysis = await self._through_lanes(submission, cost, deadline)
            except DeadlineExceededError:
                self._admission.finished(work)  # late ones teach most
                raise
            self._admission.finished(work)
        self._times.observe_decode(image_format, pixels, body_bytes, analysis.picture.seconds)
        if self.lanes.line.waiting:  # every worker is busy: this is the pace under load
            self._times.observe_inference(analysis.inference_batch_size, analysis.inference_seconds)
        if analysis.explanation.result:
            self._times.observe_explanation(analysis.explanation.seconds)
        return analysis

    async def _through_lanes(self, submission: Submission, cost: Cost, deadline: float) -> Analysis:
        try:
            async with asyncio.timeout(deadline - _clock()):
                if cost.slow_seconds:
                    await self.lanes.slow.submit(submission, deadline)
                return (await self.lanes.line.submit(submission, deadline)).result
        except TimeoutError:
            raise DeadlineExceededError("no answer within the deadline") from None

    def _observe(
        self, prediction: Prediction, analysis: Analysis, arrived: float, received: float, analysed: float
    ) -> None:
        """Stage by stage from the request's head to the finished answer: no moment is counted twice or left out."""
        answered = _clock()
        stages = {
            "receive": received - arrived,
            "decode": analysis.picture.decode_seconds,
            "preprocess": analysis.picture.preprocess_seconds,
            "queue": analysed - received - analysis.seconds,
            "inference": analysis.inference_seconds,
            "interpret": analysis.reading.seconds,
            "respond": answered - analysed,
        }
        if analysis.explanation.result:  # the others' nothing would hide what it takes
            stages["explain"] = analysis.explanation.seconds
        self._metrics.predicted(prediction, stages, answered - arrived)


def _prediction(request_id: str, model: LoadedModel, analysis: Analysis, seconds: float) -> Prediction:
    timing = Timing(
        decode=_ms(analysis.picture.decode_seconds),
        preprocess=_ms(analysis.picture.preprocess_seconds),
        queue=_ms(seconds - analysis.seconds),
        inference=_ms(analysis.inference_seconds),
        total=_ms(seconds),
    )
    return Prediction(
        request_id=request_id,
        model=model.identity,
        explanation=analysis.explanation.result,
        timing_ms=timing,
        **vars(analysis.reading.result),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
