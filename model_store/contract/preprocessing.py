"""From an opened picture to the uint8 tensor a network takes: the only implementation, used by training and service.

Every step that changes a pixel stands here, so that both sides see the same picture:
opened picture -> `load_rgb` (reduced-scale decoding, orientation, colour) -> `to_input` (shape) -> uint8 [H, W, 3].
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

# A JPEG is decoded at the smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that keeps this many times the input's side.
REDUCED_DECODE_FACTOR: Final = 2

_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
_TURNED = range(2, 9)  # EXIF orientations that are not upright
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


class Preprocessing(BaseModel):
    """How a picture of any shape becomes the network's input. Part of the manifest; no defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=32, le=1024)
    width: int = Field(ge=32, le=1024)
    resize: Literal["squash", "center_crop", "pad"]
    reduced_decode_factor: Literal[2]


class UnsupportedPixelsError(ValueError):
    """The picture opens, but its pixel values have no defined meaning as a colour (floating point, 32-bit)."""


def load_rgb(image: Image.Image, contract: Preprocessing) -> Image.Image:
    """Decode an opened picture to upright 8-bit RGB; metadata is dropped.

    JPEG is decoded at a reduced scale, 16-bit grey is scaled to 8 bits, transparency is laid on white, CMYK and
    palettes are converted, EXIF orientation is applied. Raises UnsupportedPixelsError for other pixel types, and
    whatever Pillow raises for damaged data.
    """
    factor = contract.reduced_decode_factor
    # draft() keeps both sides at or above what is asked, so a turned picture needs the larger side both ways.
    side = factor * max(contract.height, contract.width)
    image.draft("RGB", (side, side))
    image.load()
    return _to_rgb(_upright(image))


def to_input(rgb: Image.Image, contract: Preprocessing) -> NDArray[np.uint8]:
    """An RGB picture of any size -> uint8 [height, width, 3]. Antialiased (triangle filter scaled to the reduction)."""
    size = (contract.width, contract.height)
    if contract.resize == "center_crop":
        resized = rgb.resize(size, Image.Resampling.BILINEAR, box=_centre_box(rgb.size, contract))
    elif contract.resize == "pad":
        resized = ImageOps.pad(rgb, size, Image.Resampling.BILINEAR, color=_BLACK)
    else:
        resized = rgb.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def _centre_box(size: tuple[int, int], contract: Preprocessing) -> tuple[float, float, float, float]:
    """The largest centred box with the input's aspect, in pixels: left, upper, right, lower."""
    width, height = size
    scale = min(width / contract.width, height / contract.height)
    # A width times a ratio may come out a rounding error larger; Pillow refuses a box beyond the picture.
    cut_width, cut_height = min(scale * contract.width, width), min(scale * contract.height, height)
    left, upper = (width - cut_width) / 2, (height - cut_height) / 2
    return (left, upper, left + cut_width, upper + cut_height)


def _upright(image: Image.Image) -> Image.Image:
    """exif_transpose would copy a picture that needs no turning: a tenth of the time for a small JPEG."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(image) if orientation in _TURNED else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT:
        return _sixteen_bit_to_rgb(image)
    if image.mode not in _EIGHT_BIT:
        raise UnsupportedPixelsError(f"pixels of type {image.mode} are not supported")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        layered = image if image.mode == "RGBA" else image.convert("RGBA")
        backdrop = Image.new("RGB", image.size, _WHITE)
        backdrop.paste(layered, mask=layered.getchannel("A"))
        return backdrop
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips at 255: scale instead."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise UnsupportedPixelsError("pixels of 32 bits are not supported")
    return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
