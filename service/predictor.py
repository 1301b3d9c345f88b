"""The request path, top to bottom: admit, receive, decode, preprocess, batch, infer, interpret, explain, answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from service.admission import Admission
from service.batcher import Batcher
from service.decode import decode
from service.errors import DeadlineExceededError
from service.explain import explain
from service.interpret import interpret
from service.metrics import Metrics
from service.options import Options, require_known
from service.registry import Registry
from service.schemas import Prediction, Timing
from service.settings import Settings
from service.upload import Upload

Receive = Callable[[], Awaitable[Upload]]
Result = TypeVar("Result")


class Predictor:
    """Answers pictures with one loaded model; `decoders` also draw explanations, the network runs behind `batcher`."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        decoders: Executor,
        batcher: Batcher,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._registry, self._admission, self._metrics = registry, admission, metrics
        self._decoders, self._batcher = decoders, batcher
        self._pixel_limit, self._site_prevalence = settings.pixel_limit_pixels, settings.prevalence

    async def predict(
        self, request_id: str, receive: Receive, body_bytes: int, deadline_seconds: float, query: Options
    ) -> Prediction:
        """One picture's answer. `receive` reads the body, of `body_bytes` at most; `query` is what the URL asks for.

        The deadline runs from the complete body: how fast a caller uploads is not in the service's hands.
        Raises the ServiceErrors of every stage.
        """
        clock = time.monotonic  # a loop's own time may be milliseconds old
        model = self._registry.current()
        arrived = clock()
        with self._admission.admit(deadline_seconds, body_bytes):
            upload = await receive()
            received = clock()
            deadline = received + deadline_seconds
            asked = query.joined(upload.options)
            require_known(asked, model.manifest.classes)
            prevalence = self._site_prevalence if asked.prevalence is None else asked.prevalence
            try:
                async with asyncio.timeout(deadline_seconds):
                    picture = await self._in_worker(
                        partial(decode, upload.picture, model.manifest.preprocessing, self._pixel_limit), deadline
                    )
                    decoded = clock()
                    del upload  # under load many pictures wait for the network: keep only their small tensors
                    answer = await self._batcher.submit(picture.tensor, deadline)
                    inferred = clock()
                    reading = interpret(answer.output, picture, model.manifest, prevalence)
                    interpreted = clock()
                    explanation = None
                    if asked.explain is not None:
                        seen = (reading.probabilities, answer.output, picture, model.manifest)
                        explanation = await self._in_worker(partial(explain, asked.explain, *seen), deadline)
            except TimeoutError:
                raise DeadlineExceededError(f"no answer within {deadline_seconds:g} seconds") from None
            answered = clock()
            timing = Timing(
                decode=_ms(picture.decode_seconds),
                preprocess=_ms(picture.preprocess_seconds),
                # Waiting for a decoder and waiting for the network: both are time in line.
                queue=_ms(decoded - received - picture.seconds + answer.queue_seconds),
                inference=_ms(answer.inference_seconds),
                total=_ms(answered - received),
            )
            self._admission.observe_finish(answered - received)
        prediction = Prediction(
            request_id=request_id, model=model.identity, explanation=explanation, timing_ms=timing, **vars(reading)
        )
        self._observe(prediction, received - arrived, interpreted - inferred, answered - interpreted)
        return prediction

    async def _in_worker(self, work: Callable[[], Result], deadline: float) -> Result:
        """In a worker thread; what nobody waits for any more, or whose time is over, is not begun."""

        def work_in_time() -> Result:
            if time.monotonic() >= deadline:
                raise DeadlineExceededError("the picture waited too long for a worker")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._decoders, work_in_time)

    def _observe(
        self, prediction: Prediction, receive_seconds: float, interpret_seconds: float, explain_seconds: float
    ) -> None:
        timing = prediction.timing_ms
        self._metrics.stage_finished("receive", receive_seconds)
        self._metrics.stage_finished("decode", timing.decode / 1000)
        self._metrics.stage_finished("preprocess", timing.preprocess / 1000)
        self._metrics.stage_finished("queue", timing.queue / 1000)
        self._metrics.stage_finished("inference", timing.inference / 1000)
        self._metrics.stage_finished("interpret", interpret_seconds)
        if prediction.explanation:
            self._metrics.stage_finished("explain", explain_seconds)
        self._metrics.predicted(prediction)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
