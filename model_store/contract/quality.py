"""Is a picture good enough to be judged? Measured on the network's input, the same way by training and service.

The corners are left out: a dermatoscope's tube makes them dark in good pictures too.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_HALF_AXES = 0.9  # of the ellipse that is looked at, in half sides of the picture
_DARK_BELOW = 20  # luma, of 255
_BRIGHT_ABOVE = 250  # every channel, of 255
_SMALLEST_VARIANCE = 1e-3  # of the Laplacian: keeps the logarithm finite where nothing changes


@dataclass(frozen=True)
class PictureQuality:
    """What was measured; shares, brightness and contrast are in [0, 1]."""

    min_side_pixels: int
    sharpness: float  # log10 of the variance of the luma's 3 x 3 Laplacian
    brightness: float  # mean luma
    dark_share: float
    bright_share: float
    contrast: float  # standard deviation of the luma


class QualityLimits(BaseModel):
    """What a picture must keep. Part of the manifest; no defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_side_pixels: int = Field(ge=1, description="shorter side of the picture as it was sent")
    sharpness_min: float
    brightness_min: float = Field(ge=0, le=1)
    brightness_max: float = Field(ge=0, le=1)
    dark_share_max: float = Field(ge=0, le=1)
    bright_share_max: float = Field(ge=0, le=1)
    contrast_min: float = Field(ge=0, le=1)


def measure(tensor: NDArray[np.uint8], width: int, height: int) -> PictureQuality:
    """The network's input uint8 [H, W, 3] and the size in pixels of the picture that it was made from."""
    inside = _ellipse(*tensor.shape[:2])
    luma = tensor @ _LUMA
    seen = luma[inside]
    bright = tensor.min(axis=2)[inside] > _BRIGHT_ABOVE
    variance = float(_laplacian(luma)[inside[1:-1, 1:-1]].var(dtype=np.float64))
    return PictureQuality(
        min_side_pixels=min(width, height),
        sharpness=float(np.log10(max(variance, _SMALLEST_VARIANCE))),
        brightness=float(seen.mean(dtype=np.float64)) / 255,
        dark_share=float((seen < _DARK_BELOW).mean()),
        bright_share=float(bright.mean()),
        contrast=float(seen.std(dtype=np.float64)) / 255,
    )


def problems(quality: PictureQuality, limits: QualityLimits) -> tuple[str, ...]:
    """Codes of the limits that are not kept: too_small, too_dark, overexposed, uniform, blurred, in this order."""
    found = {
        "too_small": quality.min_side_pixels < limits.min_side_pixels,
        "too_dark": quality.brightness < limits.brightness_min or quality.dark_share > limits.dark_share_max,
        "overexposed": quality.brightness > limits.brightness_max or quality.bright_share > limits.bright_share_max,
        "uniform": quality.contrast < limits.contrast_min,
        "blurred": quality.sharpness < limits.sharpness_min,
    }
    return tuple(code for code, wrong in found.items() if wrong)


def _laplacian(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W] -> [H - 2, W - 2]: the four neighbours less four times the pixel."""
    neighbours = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return np.asarray(neighbours - 4 * luma[1:-1, 1:-1])


@cache
def _ellipse(height: int, width: int) -> NDArray[np.bool_]:
    """[H, W]: True inside the centred ellipse."""
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(y[:, None] ** 2 + x[None, :] ** 2 <= _HALF_AXES**2)
