"""Every change does to a picture what its name says, and curves and stability are measured from the answers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.contract.quality import measure
from tests.training.builders import RULES, picture
from tests.training.tiny_graph import colour_weights, tiny_graph
from training.config import Config
from training.data import Picture
from training.evaluation.robustness import CHANGES, measure_robustness
from training.evaluation.stability import VIEWS, changes, measure_stability
from training.evaluation.tables import Predictions, Resampling, classify
from training.export import OnnxClassifier
from training.render import Renderer, contract_of

RESAMPLING = Resampling(seed=0, resamples=50)
BY_NAME = {change.name: change for change in CHANGES}


def textured(width: int = 160, height: int = 120) -> Image.Image:
    """A noisy picture with a dark disc off the centre."""
    random = np.random.default_rng(0)
    pixels = random.normal(150, 25, (height, width, 3))
    rows, columns = np.mgrid[0:height, 0:width]
    pixels[(rows - 40) ** 2 + (columns - 60) ** 2 < 400] -= 80
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_level_changes_the_picture(change: object) -> None:
    """Each level gives an RGB picture that differs from the picture and is the same when made again."""
    plain = textured()
    for level in change.levels:  # type: ignore[attr-defined]
        made, again = (change.at(level, 64)(textured()) for _ in range(2))  # type: ignore[attr-defined]
        assert made.mode == "RGB"
        assert np.array_equal(np.asarray(made), np.asarray(again))
        assert not np.array_equal(np.asarray(made.resize((64, 64))), np.asarray(plain.resize((64, 64))))


def test_blur_and_brightness_do_what_they_say() -> None:
    """More blur is less sharp; brightness multiplies."""
    sharpness = [_quality(BY_NAME["blur"].at(level, 64)(textured())).sharpness for level in BY_NAME["blur"].levels]
    assert sharpness == sorted(sharpness, reverse=True)
    halved = _quality(BY_NAME["brightness"].at(0.5, 64)(textured())).brightness
    assert halved == pytest.approx(0.5 * _quality(textured()).brightness, rel=0.02)


def test_scale_and_rotation_keep_the_centre() -> None:
    """What lies in the middle stays there; twice the scale shows half of each side."""
    marked = textured()
    marked.paste((255, 0, 0), (74, 54, 86, 66))
    for name, level in (("scale", 0.5), ("scale", 2), ("rotation", 45), ("rotation", 180)):
        made = BY_NAME[name].at(level, 64)(marked)
        assert made.getpixel((made.width // 2, made.height // 2)) == pytest.approx((255, 0, 0), abs=3)
    assert BY_NAME["scale"].at(2, 64)(marked).size == (80, 60)
    assert BY_NAME["scale"].at(0.5, 64)(marked).size == (320, 240)
    assert BY_NAME["rotation"].at(45, 64)(marked).size == marked.size


def test_curves_weigh_classes_as_they_are(smoke_config: Config, tmp_path: Path) -> None:
    """A colour-judging network is perfect unchanged, fails on grey pictures, and the gates see the dark ones."""
    pictures = _coloured(tmp_path, malignant=6, benign=18)
    renderer = Renderer(smoke_config, contract_of(smoke_config.input))
    classifier = OnnxClassifier(tiny_graph(colour_weights()))
    found = measure_robustness(classifier, pictures, renderer, RULES, RESAMPLING, per_class=5)
    assert (found["pictures"], found["of"]) == (10, 24)
    brightness = {row["level"]: row for row in found["curves"]["brightness"]["levels"]}
    assert brightness[1]["balanced_accuracy"]["value"] == 1.0
    assert brightness[1]["refused"]["value"] == 0.0
    assert brightness[0.3]["refused"]["value"] == 1.0
    for curve in found["curves"].values():
        levels = [row["level"] for row in curve["levels"]]
        assert levels == sorted(levels)
        assert curve["unchanged"] in levels


def test_colour_judge_is_stable(smoke_config: Config, tmp_path: Path) -> None:
    """Mirroring and turning change no mean colour, so no answer; every view is reported, and all together."""
    pictures = _coloured(tmp_path, malignant=3, benign=3)
    renderer = Renderer(smoke_config, contract_of(smoke_config.input))
    classifier = OnnxClassifier(tiny_graph(colour_weights()))
    views = measure_stability(classifier, pictures, renderer, 0.5, RESAMPLING)["views"]
    assert list(views) == [*VIEWS, "all views"]
    assert views["turned 180 degrees"]["p95_largest_change"] < 1e-3
    assert views["all views"]["same_first_diagnosis"]["value"] == 1.0


def test_instability_shows(smoke_config: Config, tmp_path: Path) -> None:
    """Against answers of another network, changes and lost diagnoses are counted."""
    pictures = _coloured(tmp_path, malignant=4, benign=4)
    renderer = Renderer(smoke_config, contract_of(smoke_config.input))
    answers = [
        Predictions(pictures, classify(OnnxClassifier(tiny_graph(weights)), renderer.batches(pictures)))
        for weights in (colour_weights(), -colour_weights())
    ]
    together = changes([(answers[0], answers[1])], 0.5, RESAMPLING)
    assert together["same_first_diagnosis"]["value"] == 0.0
    assert together["same_malignancy_decision"]["value"] == 0.0
    assert together["median_largest_change"] > 0.5


def _coloured(folder: Path, malignant: int, benign: int) -> tuple[Picture, ...]:
    """Red melanomas and green nevi, noisy, on disk."""
    random, made = np.random.default_rng(0), []
    for index in range(malignant + benign):
        dx, colour = ("mel", (190, 90, 60)) if index < malignant else ("nv", (90, 190, 60))
        pixels = np.clip(random.normal(colour, 12, (96, 128, 3)), 0, 255).astype(np.uint8)
        file = folder / f"p{index}.png"
        Image.fromarray(pixels).save(file)
        made.append(picture(f"p{index}", dx, collection="generated", file=file))
    return tuple(made)


def _quality(rgb: Image.Image):
    return measure(np.asarray(rgb.resize((64, 64))), rgb.width, rgb.height)
