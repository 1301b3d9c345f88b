"""Probabilities become diagnoses as the manifest says."""

import pytest

from model_store.contract.manifest import Manifest
from service.interpret import all_probabilities, malignancy, picture_warnings, two_most_probable
from tests.model_store.test_store import FILES, fields


@pytest.fixture
def example() -> Manifest:
    """Two classes: mel (malignant) and nv, threshold 0.2, 64 x 64."""
    files = {name: {"sha256": "0" * 64, "size_bytes": 1} for name in FILES}
    return Manifest.model_validate({**fields(), "schema_version": 1, "version": "1", "files": files})


def test_the_two_most_probable_come_best_first(example: Manifest) -> None:
    """Order, name and malignancy belong to the class."""
    first, second = two_most_probable([0.3, 0.7], example)
    assert (first.code, first.malignant, second.code, second.malignant) == ("nv", False, "mel", True)


@pytest.mark.parametrize(("probability", "above"), [(0.19, False), (0.2, True), (0.9, True)])
def test_malignancy_is_the_sum_against_the_threshold(example: Manifest, probability: float, above: bool) -> None:
    """At the threshold counts as above."""
    answer = malignancy([probability, 1 - probability], example)
    assert (answer.probability, answer.above_threshold) == (probability, above)


def test_all_probabilities_carry_their_codes(example: Manifest) -> None:
    """In the manifest's order."""
    assert all_probabilities([0.25, 0.75], example) == {"mel": 0.25, "nv": 0.75}


def test_a_normal_picture_has_no_warning(example: Manifest) -> None:
    """600 x 450 is what dermatoscopes give."""
    assert picture_warnings(600, 450, example) == []


def test_small_and_narrow_pictures_are_warned_of(example: Manifest) -> None:
    """The answer says in plain words what makes it less reliable."""
    assert "small (40 x 63 pixels" in picture_warnings(40, 63, example)[0]
    assert "long and narrow" in picture_warnings(900, 100, example)[0]
