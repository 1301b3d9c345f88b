"""Is a picture good enough to be judged? Measured on the network's input, the same way by training and service.

The corners are left out: a dermatoscope's tube makes them dark in good pictures too.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_LUMA_SCALE = 1000  # luma is counted in thousandths: its weights become whole numbers
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
    """The network's input uint8 [H, W, 3] and the size in pixels of the picture that it was made from.

    Sums of whole numbers: the same on every machine. Nothing here calls BLAS, whose threads would fight the service's.
    """
    box, inside = _ellipse(*tensor.shape[:2])
    red, green, blue = np.ascontiguousarray(tensor[box].transpose(2, 0, 1))
    luma = _luma(red, green, blue)
    seen = luma[inside]
    darkest_channel = np.minimum(np.minimum(red, green), blue)
    mean, variance = _moments(seen)
    _, roughness = _moments(_laplacian(luma)[inside[1:-1, 1:-1]])
    return PictureQuality(
        min_side_pixels=min(width, height),
        sharpness=math.log10(max(roughness / _LUMA_SCALE**2, _SMALLEST_VARIANCE)),
        brightness=mean / _LUMA_SCALE / 255,
        dark_share=int(np.count_nonzero(seen < _DARK_BELOW * _LUMA_SCALE)) / seen.size,
        bright_share=int(np.count_nonzero((darkest_channel > _BRIGHT_ABOVE) & inside)) / seen.size,
        contrast=math.sqrt(variance) / _LUMA_SCALE / 255,
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


def _luma(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> NDArray[np.int32]:
    """[H, W] of ITU-R BT.601, in thousandths of a level."""
    luma = np.multiply(red, 299, dtype=np.int32)
    luma += np.multiply(green, 587, dtype=np.int32)
    luma += np.multiply(blue, 114, dtype=np.int32)
    return luma


def _laplacian(luma: NDArray[np.int32]) -> NDArray[np.int32]:
    """[H, W] -> [H - 2, W - 2]: the four neighbours less four times the pixel."""
    found = luma[:-2, 1:-1] + luma[2:, 1:-1]
    found += luma[1:-1, :-2]
    found += luma[1:-1, 2:]
    found -= 4 * luma[1:-1, 1:-1]
    return found


def _moments(values: NDArray[np.int32]) -> tuple[float, float]:
    """Mean and variance. Sum and sum of squares are exact as long as they stay below 2^53."""
    floats = values.astype(np.float64)
    mean = float(floats.sum()) / floats.size
    variance = float(np.einsum("i,i->", floats, floats)) / floats.size - mean**2
    return mean, max(variance, 0.0)  # rounding may leave less than nothing


@cache
def _ellipse(height: int, width: int) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The box around the centred ellipse, a pixel wider for the Laplacian; and True in it for what lies inside."""
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    inside = y[:, None] ** 2 + x[None, :] ** 2 <= _HALF_AXES**2
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = slice(rows[0] - 1, rows[-1] + 2), slice(columns[0] - 1, columns[-1] + 2)
    return box, inside[box]
