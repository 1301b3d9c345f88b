"""Training and service see the same picture: one implementation, replayed on real and generated files."""

import numpy as np
import pytest
from PIL import Image

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded, read_golden, write_golden
from model_store.contract.manifest import Manifest
from model_store.contract.preprocessing import Preprocessing, to_input
from model_store.store import PRODUCTION, SHIPPED, ModelStore
from service.decode import decode
from tests.conftest import encoded, lesion_picture


def contract(resize: str, height: int = 64, width: int = 64) -> Preprocessing:
    return Preprocessing.model_validate(
        {"height": height, "width": width, "resize": resize, "reduced_decode_factor": 2}
    )


@pytest.mark.parametrize("size", [(600, 450), (450, 600), (3000, 2000), (100, 100)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_training_and_service_give_identical_tensors(manifest: Manifest, size: tuple[int, int], kind: str) -> None:
    """The service's decoder and the contract's own path, which training uses, agree in every bit."""
    body = encoded(lesion_picture(*size), kind)
    served = decode(body, manifest.preprocessing, 40_000_000).tensor
    assert np.array_equal(served, preprocess_encoded(body, manifest.preprocessing))


def test_squash_keeps_every_corner() -> None:
    """All four corners of the picture stand in the corners of the tensor."""
    picture = lesion_picture(600, 450)
    for x, y in ((0, 0), (500, 0), (0, 350), (500, 350)):
        picture.paste((0, 255, 0), (x, y, x + 100, y + 100))
    tensor = to_input(picture, contract("squash"))
    assert all((tensor[row, column] == (0, 255, 0)).all() for row in (1, -2) for column in (1, -2))


def test_centre_crop_cuts_the_longer_side() -> None:
    """What lies outside the centred square is gone (but for the filter's reach at the edge); nothing is distorted."""
    picture = Image.new("RGB", (200, 100), (255, 0, 0))
    picture.paste((0, 0, 255), (50, 0, 150, 100))
    assert (to_input(picture, contract("center_crop"))[:, 2:-2] == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(107, 107), (225, 300), (97, 1299)])
def test_centre_crop_takes_every_shape(size: tuple[int, int]) -> None:
    """No rounding error makes the box a hair larger than the picture."""
    for height in range(100, 130):
        assert to_input(Image.new("RGB", (size[0], height)), contract("center_crop", 224, 224)).shape == (224, 224, 3)
    assert to_input(Image.new("RGB", size), contract("center_crop", 224, 224)).shape == (224, 224, 3)


def test_padding_adds_black_bars() -> None:
    """A wide picture gets black above and below."""
    tensor = to_input(Image.new("RGB", (200, 100), (255, 255, 255)), contract("pad"))
    assert (tensor[:15] == 0).all()
    assert (tensor[17:47] == 255).all()


def golden(answers: GoldenAnswers) -> bytes:
    picture = encoded(lesion_picture(80, 60))
    tensors = preprocess_encoded(picture, contract("squash"))[None]
    return write_golden(GoldenVectors((picture,), tensors, {"fp32": answers}))


def test_golden_vectors_survive_their_archive() -> None:
    """What is written is read, for the variants that there are."""
    answers = GoldenAnswers(np.array([[0.25, 0.75]], np.float32), np.array([0.9], np.float32))
    read = read_golden(golden(answers))
    assert np.array_equal(read.tensors[0], preprocess_encoded(read.pictures[0], contract("squash")))
    assert list(read.answers) == ["fp32"]
    assert np.array_equal(read.answers["fp32"].probabilities, answers.probabilities)
    assert np.array_equal(read.answers["fp32"].in_distribution, answers.in_distribution)


def test_golden_answers_belong_to_their_pictures() -> None:
    """Another number of answers than of pictures is an error, not a comparison of some of them."""
    two = np.array([[0.25, 0.75]] * 2, np.float32)
    with pytest.raises(ValueError, match="as many answers as tensors"):
        read_golden(golden(GoldenAnswers(two, np.array([0.9], np.float32))))


def test_the_shipped_golden_pictures_are_generated_and_varied() -> None:
    """Several pictures of several shapes stand in the version."""
    version = ModelStore(SHIPPED).open("lesion7", PRODUCTION)
    golden = read_golden(version.read(version.manifest.golden.file))
    assert len(golden.pictures) >= 4
