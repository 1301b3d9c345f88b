"""A worker's batch: what is wrong with one picture is that picture's failure alone."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.analysis import Analysis, Submission, analyse_all, decode_all
from service.engine import NetworkOutput
from service.errors import InferenceFailedError, InvalidImageError, UnsupportedFormatError
from service.loading import LoadedModel
from service.registry import Registry
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import graph, publish

PIXEL_LIMIT = 40_000_000


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    return Registry(publish(tmp_path, {"fp32": graph()}), "lesion7").load("production")


@dataclasses.dataclass
class Network:
    """An engine that computes with a real one and changes what it says."""

    real: LoadedModel
    change: Callable[[NetworkOutput], NetworkOutput]
    sizes: list[int] = dataclasses.field(default_factory=list)
    threads_per_session: int = 1
    threads_alone: int = 2

    def infer(self, images: NDArray[np.uint8], *, alone: bool) -> NetworkOutput:
        self.sizes.append(len(images))
        return self.change(self.real.engine.infer(images, alone=alone))


def changed(model: LoadedModel, change: Callable[[NetworkOutput], NetworkOutput]) -> LoadedModel:
    return dataclasses.replace(model, engine=Network(model, change))  # type: ignore[arg-type]


def never() -> bool:
    return False


def submission(model: LoadedModel, body: bytes) -> Submission:
    return Submission(model, body, prevalence=None, explain=None)


def test_one_bad_picture_among_eight_gives_seven_right_answers(model: LoadedModel) -> None:
    """The bad one gets its own error; the others what they get alone."""
    files = [encoded(lesion_picture(200, 150, seed)) for seed in range(8)]
    alone = [analyse_all([submission(model, file)], PIXEL_LIMIT, never)[0] for file in files]
    files[3] = files[3][:400]
    together = analyse_all([submission(model, file) for file in files], PIXEL_LIMIT, never)
    assert isinstance(together[3], InvalidImageError)
    for number in {*range(8)} - {3}:
        one, many = alone[number], together[number]
        assert isinstance(one, Analysis)
        assert isinstance(many, Analysis)
        assert many.reading.result.probabilities == pytest.approx(one.reading.result.probabilities, abs=1e-5)
        assert many.inference_batch_size == 7


def test_a_batch_never_mixes_models(model: LoadedModel) -> None:
    """Each picture is answered by the model it was admitted for, each model computing its own pictures together."""

    def flipped(output: NetworkOutput) -> NetworkOutput:
        return dataclasses.replace(output, probabilities=output.probabilities[:, ::-1])

    other = changed(model, flipped)
    file = encoded(lesion_picture(200, 150))
    outcomes = analyse_all([submission(which, file) for which in (model, other, model, other)], PIXEL_LIMIT, never)
    shown = [list(o.reading.result.probabilities.values()) for o in outcomes if isinstance(o, Analysis)]
    assert shown[0] == shown[2] == shown[1][::-1] == shown[3][::-1]
    assert other.engine.sizes == [2]  # type: ignore[attr-defined]


def nan(output: NetworkOutput) -> NetworkOutput:
    output.probabilities[1] = np.nan
    return output


def doubled(output: NetworkOutput) -> NetworkOutput:
    output.probabilities[1] *= 2
    return output


def beyond(output: NetworkOutput) -> NetworkOutput:
    output.in_distribution[1] = 1.5
    return output


def infinite_map(output: NetworkOutput) -> NetworkOutput:
    output.class_maps[1, 0, 0, 0] = np.inf
    return output


@pytest.mark.parametrize("change", [nan, doubled, beyond, infinite_map])
def test_an_answer_that_cannot_be_is_none(model: LoadedModel, change: Callable[[NetworkOutput], NetworkOutput]) -> None:
    """Probabilities that are none, a score or a map that cannot be: that picture fails, its neighbours do not."""
    files = [encoded(lesion_picture(200, 150, seed)) for seed in range(3)]
    spoilt = changed(model, change)
    outcomes = analyse_all([submission(spoilt, file) for file in files], PIXEL_LIMIT, never)
    assert [type(outcome) for outcome in outcomes] == [Analysis, InferenceFailedError, Analysis]


def test_a_failing_network_fails_the_batch(model: LoadedModel) -> None:
    """It raises: the batcher halves and calls again, and nothing is decoded twice."""

    def broken(output: NetworkOutput) -> NetworkOutput:
        raise RuntimeError("bad weights")

    waiting = submission(changed(model, broken), encoded(lesion_picture(200, 150)))
    with pytest.raises(RuntimeError, match="bad weights"):
        analyse_all([waiting], PIXEL_LIMIT, never)
    assert waiting.decoded is not None
    assert waiting.body == b""


@pytest.mark.parametrize(("alone", "threads"), [(True, 2), (False, 1)])
def test_the_network_has_every_core_when_there_is_no_other_work(model: LoadedModel, alone: bool, threads: int) -> None:
    """The worker asks once the picture is decoded: somebody may have come meanwhile."""
    waiting = submission(changed(model, lambda output: output), encoded(lesion_picture(200, 150)))
    asked: list[bool] = []

    def is_alone() -> bool:
        asked.append(waiting.decoded is not None)
        return alone

    (found,) = analyse_all([waiting], PIXEL_LIMIT, is_alone)
    assert isinstance(found, Analysis)
    assert (found.inference_threads, asked) == (threads, [True])


def test_too_few_answers_fail_the_batch(model: LoadedModel) -> None:
    """No picture may get its neighbour's answer."""

    def one_less(output: NetworkOutput) -> NetworkOutput:
        return NetworkOutput(output.probabilities[1:], output.class_maps[1:], output.in_distribution[1:])

    spoilt = changed(model, one_less)
    file = encoded(lesion_picture(200, 150))
    with pytest.raises(ValueError, match="1 answers to 2 pictures"):
        analyse_all([submission(spoilt, file), submission(spoilt, file)], PIXEL_LIMIT, never)


def test_the_slow_lane_leaves_only_the_tensor(model: LoadedModel) -> None:
    """A large picture joins the line decoded, its file let go; a bad one is told so."""
    waiting = submission(model, encoded(lesion_picture(2000, 1500), "PNG"))
    (decoded,) = decode_all([waiting], PIXEL_LIMIT)
    assert waiting.decoded is decoded
    assert waiting.body == b""
    (refused,) = decode_all([submission(model, b"no picture")], PIXEL_LIMIT)
    assert isinstance(refused, UnsupportedFormatError)
