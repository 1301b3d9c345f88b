"""Picture quality is measured on the network's input; each fault is told by its own code."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from model_store.contract.quality import PictureQuality, QualityLimits, measure, problems
from tests.conftest import lesion_picture

LIMITS = QualityLimits(
    min_side_pixels=100,
    sharpness_min=1.0,
    brightness_min=0.15,
    brightness_max=0.9,
    dark_share_max=0.3,
    bright_share_max=0.2,
    contrast_min=0.02,
)
GOOD = lesion_picture(224, 224)


def tensor(picture: Image.Image = GOOD, gain: float = 1.0) -> NDArray[np.uint8]:
    return np.clip(np.asarray(picture, np.float32) * gain, 0, 255).astype(np.uint8)


def found(pixels: NDArray[np.uint8], width: int = 600, height: int = 450) -> tuple[str, ...]:
    return problems(measure(pixels, width, height), LIMITS)


def test_a_good_picture_has_no_problem() -> None:
    """Nothing is said of a sharp, well exposed picture."""
    assert found(tensor()) == ()


def test_each_fault_has_its_code() -> None:
    """Too few pixels, too little light, too much, nothing to see, out of focus."""
    assert found(tensor(), 99, 3000) == ("too_small",)
    assert "too_dark" in found(tensor(gain=0.1))
    assert "overexposed" in found(tensor(gain=3.0))
    assert found(tensor(GOOD.filter(ImageFilter.GaussianBlur(8)))) == ("blurred",)
    assert found(np.full((64, 64, 3), 128, np.uint8)) == ("uniform", "blurred")


@pytest.mark.parametrize(
    ("value", "limit", "beyond", "code"),
    [
        ("min_side_pixels", 100, 99, "too_small"),
        ("brightness", 0.15, 0.149, "too_dark"),
        ("dark_share", 0.3, 0.301, "too_dark"),
        ("brightness", 0.9, 0.901, "overexposed"),
        ("bright_share", 0.2, 0.201, "overexposed"),
        ("contrast", 0.02, 0.019, "uniform"),
        ("sharpness", 1.0, 0.999, "blurred"),
    ],
)
def test_each_limit_counts_by_itself(value: str, limit: float, beyond: float, code: str) -> None:
    """A value at its limit is still good enough; just beyond it that one fault is told, whatever the other values."""
    good = PictureQuality(450, 2.0, 0.5, 0.0, 0.0, 0.2)
    assert problems(replace(good, **{value: limit}), LIMITS) == ()
    assert problems(replace(good, **{value: beyond}), LIMITS) == (code,)


def test_codes_come_in_their_order() -> None:
    """A small black picture has every fault that goes with it, always in the same order."""
    assert found(np.zeros((64, 64, 3), np.uint8), 10, 10) == ("too_small", "too_dark", "uniform", "blurred")


def test_dark_corners_are_normal() -> None:
    """The black tube of a dermatoscope around a good picture changes none of the measured values."""
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    framed = np.where((x**2 + y**2 < 0.97**2)[..., None], tensor(), 0).astype(np.uint8)
    assert measure(framed, 600, 450) == measure(tensor(), 600, 450)


def test_values_are_what_they_say() -> None:
    """A grey ramp: known mean and spread, a Laplacian of zero, dark at one end only as far as the ellipse reaches."""
    ramp = np.repeat(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    quality = measure(ramp, 4000, 3000)
    assert isinstance(quality, PictureQuality)
    assert quality.min_side_pixels == 3000
    assert quality.brightness == pytest.approx(0.5, abs=0.001)
    assert quality.sharpness == -3.0
    assert 0 < quality.dark_share < 0.02  # luma below 20 begins where the ellipse is narrow
    assert quality.contrast == pytest.approx(0.45 / 2, abs=0.01)  # of an ellipse: half its half axis


def as_defined(pixels: NDArray[np.uint8]) -> PictureQuality:
    """The definitions, word by word, in floating point: what the manifests' limits were chosen with."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (y / height * 2 - 1) ** 2 + (x / width * 2 - 1) ** 2 <= 0.9**2
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    neighbours = sum(np.roll(luma, step, axis) for step in (-1, 1) for axis in (0, 1))
    return PictureQuality(
        min_side_pixels=1,
        sharpness=np.log10(max((neighbours - 4 * luma)[inside].var(), 1e-3)),
        brightness=luma[inside].mean() / 255,
        dark_share=(luma[inside] < 20).mean(),
        bright_share=(pixels[inside] > 250).all(axis=1).mean(),
        contrast=luma[inside].std() / 255,
    )


@pytest.mark.parametrize("kind", ["noise", "dark", "bright", "lesion", "blurred", "wide", "black", "white"])
def test_whole_numbers_give_what_the_definitions_say(kind: str) -> None:
    """Every value is that of the plain formula to a millionth, on random and drawn pictures of several shapes."""
    random = np.random.default_rng(3)
    pixels = {
        "noise": random.integers(0, 256, (224, 224, 3)).astype(np.uint8),
        "dark": random.integers(0, 40, (224, 224, 3)).astype(np.uint8),
        "bright": random.integers(240, 256, (96, 64, 3)).astype(np.uint8),
        "lesion": tensor(),
        "blurred": tensor(GOOD.filter(ImageFilter.GaussianBlur(8))),
        "wide": tensor(lesion_picture(300, 100)),
        "black": np.zeros((64, 64, 3), np.uint8),
        "white": np.full((64, 64, 3), 255, np.uint8),
    }[kind]
    assert astuple(measure(pixels, 1, 1)) == pytest.approx(astuple(as_defined(pixels)), abs=1e-6)
