"""The checks of the class maps can fail: on maps that ignore the weights, and on maps beside the lesion."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.builders import picture
from tests.training.tiny_graph import colour_weights, tiny_graph
from training.evaluation.explain_check import explanation_report, lesion_mask, otsu, shuffled_weights
from training.evaluation.tables import Predictions, Resampling
from training.export import CLASS_MAPS, PROBABILITIES, OnnxClassifier

RESAMPLING = Resampling(seed=0, resamples=50)


def lesion_picture(x: int, y: int, radius: int = 12, side: int = 64) -> NDArray[np.uint8]:
    """A dark red disc on skin, with a little noise."""
    rows, columns = np.mgrid[0:side, 0:side]
    image = np.full((side, side, 3), (224, 178, 155), float)
    image[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = (120, 40, 30)
    noise = np.random.default_rng(x * side + y).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("x", "y"), [(32, 32), (24, 38), (40, 26)])
def test_mask_is_the_disc(x: int, y: int) -> None:
    """Otsu's threshold finds the lesion, wherever it lies."""
    mask = lesion_mask(lesion_picture(x, y))
    assert mask is not None
    rows, columns = np.mgrid[0:64, 0:64]
    disc = (rows - y) ** 2 + (columns - x) ** 2 <= 144
    assert (mask & disc).sum() / (mask | disc).sum() > 0.8


def test_picture_without_a_lesion_has_no_mask() -> None:
    """A picture that is dark to its left edge is no lesion."""
    image = np.full((64, 64, 3), 200, np.uint8)
    image[:, :20] = 40
    assert lesion_mask(image) is None


def test_otsu_parts_two_heaps() -> None:
    """The threshold lies between the heaps, and nearly all variance between them."""
    random = np.random.default_rng(0)
    threshold, share = otsu(np.concatenate([random.normal(20, 2, 300), random.normal(80, 2, 100)]))
    assert 25 < threshold < 75
    assert share > 0.95


def test_maps_on_the_lesion_beat_the_blob() -> None:
    """Lesions off the centre, and a graph that looks at their colour: the map finds them, the centred blob does not."""
    images = np.stack([lesion_picture(x, y) for x in (20, 32, 44) for y in (20, 44)])
    redder_than_skin = np.zeros((7, 3), np.float32)
    redder_than_skin[4] = [12, -15.2, 0]
    place = _report(redder_than_skin, images)["on_the_lesion"]
    assert place["pictures"] == 6
    assert place["map"]["value"] > 0.6 > place["centred_blob"]["value"]
    assert place["map_beats_blob"]["value"] == 1.0


def test_maps_beside_the_lesion_lose() -> None:
    """A graph that looks at the skin has its evidence there."""
    images = np.stack([lesion_picture(x, y) for x in (24, 40) for y in (24, 40)])
    skin = np.zeros((7, 3), np.float32)
    skin[4] = [0, 12, 0]
    place = _report(skin, images)["on_the_lesion"]
    assert place["map_less_blob"]["high"] < 0


def test_shuffled_weights_change_the_maps_and_keep_their_size() -> None:
    """Same magnitudes in another order; the original graph is left alone."""
    graph = tiny_graph(colour_weights())
    images = np.stack([lesion_picture(32, 32)])
    plain, shuffled = (
        OnnxClassifier(g).outputs(images)[CLASS_MAPS] for g in (graph, shuffled_weights(graph, False, 3))
    )
    assert np.abs(plain - shuffled).max() > 1
    assert graph == tiny_graph(colour_weights())


def test_correlation_is_with_the_same_class() -> None:
    """The report gives median and spread for both kinds of shuffling."""
    images = np.stack([lesion_picture(32, 32), lesion_picture(24, 40)])
    found = _report(colour_weights(), images)["rank_correlation_with_shuffled_weights"]
    assert set(found) == {"last layer", "all layers"}
    assert all(-1 <= of["p5"] <= of["median"] <= of["p95"] <= 1 for of in found.values())


def _report(weights: NDArray[np.float32], images: NDArray[np.uint8]) -> dict:
    graph = tiny_graph(weights)
    outputs = OnnxClassifier(graph).outputs(images)
    pictures = tuple(picture(f"p{i}", "mel") for i in range(len(images)))
    part = Predictions(pictures, outputs[PROBABILITIES].astype(np.float64))
    return explanation_report(graph, part, images, outputs[CLASS_MAPS], RESAMPLING)
