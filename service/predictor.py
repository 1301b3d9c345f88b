"""The request path, top to bottom: admit, receive, decode, preprocess, batch, infer, interpret, answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from service.admission import Admission
from service.batcher import BatchAnswer, Batcher
from service.decode import DecodedPicture, decode
from service.errors import DeadlineExceededError
from service.interpret import all_probabilities, malignancy, picture_warnings, two_most_probable
from service.metrics import Metrics
from service.registry import LoadedModel, Registry
from service.schemas import Prediction, Timing

Receive = Callable[[], Awaitable[bytes]]


class Predictor:
    """Answers pictures with one loaded model; decoding runs in `decoders`, the network behind `batcher`."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        decoders: Executor,
        batcher: Batcher,
        metrics: Metrics,
        pixel_limit: int,
    ) -> None:
        self._registry, self._admission, self._metrics = registry, admission, metrics
        self._decoders, self._batcher, self._pixel_limit = decoders, batcher, pixel_limit

    async def predict(self, request_id: str, receive: Receive, body_bytes: int, deadline_seconds: float) -> Prediction:
        """One picture's answer. `receive` reads the body, of `body_bytes` at most.

        The deadline runs from the complete body: how fast a caller uploads is not in the service's hands.
        Raises the ServiceErrors of every stage.
        """
        clock = time.monotonic  # a loop's own time may be milliseconds old
        model = self._registry.current()
        arrived = clock()
        with self._admission.admit(deadline_seconds, body_bytes):
            body = await receive()
            received = clock()
            deadline = received + deadline_seconds
            try:
                async with asyncio.timeout(deadline_seconds):
                    picture = await self._decode(body, model, deadline)
                    decoded = clock()
                    del body  # under load many pictures wait for the network: keep only their small tensors
                    answer = await self._batcher.submit(picture.tensor, deadline)
            except TimeoutError:
                raise DeadlineExceededError(f"no answer within {deadline_seconds:g} seconds") from None
            inferred = clock()
            timing = Timing(
                decode=_ms(picture.decode_seconds),
                preprocess=_ms(picture.preprocess_seconds),
                # Waiting for a decoder and waiting for the network: both are time in line.
                queue=_ms(decoded - received - picture.seconds + answer.queue_seconds),
                inference=_ms(answer.inference_seconds),
                total=_ms(inferred - received),
            )
            prediction = _interpret(request_id, model, picture, answer, timing)
            self._admission.observe_finish(clock() - received)
        self._observe(prediction, received - arrived, clock() - inferred)
        return prediction

    async def _decode(self, body: bytes, model: LoadedModel, deadline: float) -> DecodedPicture:
        """In a worker thread; a picture whose caller left or whose time is over is not decoded any more."""

        def decode_in_time() -> DecodedPicture:
            if time.monotonic() >= deadline:
                raise DeadlineExceededError("the picture waited too long to be decoded")
            return decode(body, model.manifest.preprocessing, self._pixel_limit)

        return await asyncio.get_running_loop().run_in_executor(self._decoders, decode_in_time)

    def _observe(self, prediction: Prediction, receive_seconds: float, interpret_seconds: float) -> None:
        timing = prediction.timing_ms
        self._metrics.stage_finished("receive", receive_seconds)
        self._metrics.stage_finished("decode", timing.decode / 1000)
        self._metrics.stage_finished("preprocess", timing.preprocess / 1000)
        self._metrics.stage_finished("queue", timing.queue / 1000)
        self._metrics.stage_finished("inference", timing.inference / 1000)
        self._metrics.stage_finished("interpret", interpret_seconds)
        self._metrics.predicted(prediction.diagnoses[0].code)


def _interpret(
    request_id: str, model: LoadedModel, picture: DecodedPicture, answer: BatchAnswer, timing: Timing
) -> Prediction:
    probabilities = [float(p) for p in answer.probabilities]
    return Prediction(
        request_id=request_id,
        model=model.identity,
        diagnoses=two_most_probable(probabilities, model.manifest),
        probabilities=all_probabilities(probabilities, model.manifest),
        malignancy=malignancy(probabilities, model.manifest),
        warnings=picture_warnings(picture.width, picture.height, model.manifest),
        timing_ms=timing,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
