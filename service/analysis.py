"""What a worker thread does with a batch: decode -> preprocess -> infer -> interpret -> explain; everything that costs.

A picture that fails is its own caller's failure; its neighbours go on. An exception that is none of a picture's own,
such as one of the network, fails the batch: the batcher halves it and calls again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from service.decode import DecodedPicture, decode
from service.engine import PictureOutput
from service.errors import InferenceFailedError, ServiceError
from service.explain import explain
from service.interpret import Interpretation, interpret
from service.loading import LoadedModel
from service.schemas import Explanation

_SUM_TOLERANCE = 1e-3

Result = TypeVar("Result")


@dataclass(eq=False)
class Submission:
    """A picture on its way. It is answered by the model it was admitted for, whatever serves meanwhile.

    `explain`: class code, FIRST or None. `decoded` replaces `body`, which is let go: under load many pictures wait.
    """

    model: LoadedModel
    body: bytes
    prevalence: float | None
    explain: str | None
    decoded: DecodedPicture | None = None


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """A step's result, its wall seconds, and those in which its thread had a processor."""

    result: Result
    seconds: float
    processor_seconds: float


@dataclass(frozen=True)
class Analysis:
    """All that the workers find out about one picture. `network` is its row; seconds are those of the whole batch.

    `inference_threads` computed it in the network.
    """

    picture: DecodedPicture
    network: Timed[PictureOutput]
    inference_batch_size: int
    inference_threads: int
    reading: Timed[Interpretation]
    explanation: Timed[Explanation | None]

    @property
    def inference_seconds(self) -> float:
        """In the network, of the whole batch."""
        return self.network.seconds

    @property
    def seconds(self) -> float:
        """Work on the picture, in whichever threads; what is missing to the time that passed was spent in line."""
        return self.picture.seconds + self.inference_seconds + self.reading.seconds + self.explanation.seconds


def decode_all(submissions: Sequence[Submission], pixel_limit: int) -> list[DecodedPicture | Exception]:
    """The slow lane's work: decode, and put the small tensor into the submission in place of its file."""
    return [_decoded(submission, pixel_limit) for submission in submissions]


def analyse_all(
    submissions: Sequence[Submission], pixel_limit: int, is_alone: Callable[[], bool]
) -> list[Analysis | Exception]:
    """The workers' work. One outcome for each submission, in their order. Raises what the network raises.

    `is_alone` tells whether these are all the pictures there are: then the network may have every core.
    """
    outcomes: dict[int, Analysis | Exception] = {}
    ready: list[tuple[int, Submission, DecodedPicture]] = []
    for place, submission in enumerate(submissions):
        decoded = _decoded(submission, pixel_limit)
        if isinstance(decoded, Exception):
            outcomes[place] = decoded
        else:
            ready.append((place, submission, decoded))
    for model in {id(submission.model): submission.model for _, submission, _ in ready}.values():
        outcomes |= _answers(model, [entry for entry in ready if entry[1].model is model], is_alone)
    return [outcomes[place] for place in range(len(submissions))]


def _decoded(submission: Submission, pixel_limit: int) -> DecodedPicture | Exception:
    if submission.decoded is None:
        contract = submission.model.manifest.preprocessing
        try:
            submission.decoded = decode(submission.body, contract, pixel_limit)
        except ServiceError as error:
            # Without the frames that it came through: they hold the picture, and each other, until Python's garbage
            # collector comes by, which an idle service may not see for hours.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return error
        submission.body = b""
    return submission.decoded


def _answers(
    model: LoadedModel, entries: Sequence[tuple[int, Submission, DecodedPicture]], is_alone: Callable[[], bool]
) -> Iterator[tuple[int, Analysis | Exception]]:
    """Pictures of one model, through its network together: (place, outcome) of each."""
    images = np.stack([picture.tensor for _, _, picture in entries])
    alone = is_alone()
    threads = model.engine.threads_alone if alone else model.engine.threads_per_session
    network = timed(lambda: model.engine.infer(images, alone=alone).rows())
    if len(network.result) != len(entries):
        raise ValueError(f"{len(network.result)} answers to {len(entries)} pictures")
    for (place, submission, picture), output in zip(entries, network.result, strict=True):
        if not is_valid(output):
            yield place, InferenceFailedError("the network gave no valid answer")
            continue
        reading = timed(partial(interpret, output, picture, model.manifest, submission.prevalence))
        shown = partial(_explanation, submission, reading.result, output, picture)
        row = Timed(output, network.seconds, network.processor_seconds)
        yield place, Analysis(picture, row, len(entries), threads, reading, timed(shown))


def _explanation(
    submission: Submission, reading: Interpretation, output: PictureOutput, picture: DecodedPicture
) -> Explanation | None:
    if submission.explain is None:
        return None
    return explain(submission.explain, reading.probabilities, output, picture, submission.model.manifest)


def timed(step: Callable[[], Result]) -> Timed[Result]:
    """Run a step in this thread."""
    started, had = time.monotonic(), time.thread_time()
    result = step()
    return Timed(result, time.monotonic() - started, time.thread_time() - had)


def is_valid(output: PictureOutput) -> bool:
    """Probabilities that are some, a score in [0, 1], finite maps. Any comparison with NaN is false."""
    probabilities = output.probabilities
    return bool(
        (probabilities >= 0).all()
        and abs(float(probabilities.sum()) - 1) <= _SUM_TOLERANCE
        and 0 <= output.in_distribution <= 1
        and np.isfinite(output.class_maps).all()
    )
