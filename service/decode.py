"""Untrusted bytes -> the network's input. Runs in a worker thread; touches nothing but its arguments.

The format is what the first bytes say, whatever the caller claims. Limits are checked on the header, before a pixel
is decoded. Only the named Pillow plugins ever see the data.
"""

import io
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model_store.contract.preprocessing import Preprocessing, UnsupportedPixelsError, load_rgb, to_input
from model_store.contract.quality import PictureQuality, measure
from service.errors import InvalidImageError, PayloadTooLargeError, ServiceError, UnsupportedFormatError

ACCEPTED = "JPEG, PNG, WebP, TIFF or BMP"
_MAX_SIGNATURE_BYTES = 12
# Pillow's own guard has another limit and only warns near it; `_check_header` below is the guard here.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class DecodedPicture:
    """`tensor` is uint8 [H, W, 3]; `width` and `height` are the upright picture's, in pixels, before any scaling."""

    tensor: NDArray[np.uint8]
    width: int
    height: int
    quality: PictureQuality
    decode_seconds: float
    preprocess_seconds: float

    @property
    def seconds(self) -> float:
        """Work of both steps."""
        return self.decode_seconds + self.preprocess_seconds


def decode(body: bytes, contract: Preprocessing, pixel_limit: int) -> DecodedPicture:
    """Decode and preprocess one picture, and measure how good it is.

    Raises UnsupportedFormatError, PayloadTooLargeError (over `pixel_limit`), InvalidImageError.
    """
    started = time.perf_counter()
    image_format = sniff(body)
    try:
        with Image.open(io.BytesIO(body), formats=[image_format]) as image:
            width, height = image.size
            _check_header(image, pixel_limit)
            rgb = load_rgb(image, contract)
    except ServiceError:
        raise
    except UnsupportedPixelsError as error:
        raise InvalidImageError(str(error)) from error
    except UnidentifiedImageError as error:
        raise InvalidImageError(f"the file is damaged: it starts like {image_format} but is none") from error
    except Exception as error:
        # Damaged files make Pillow's plugins raise nearly anything (OSError, SyntaxError, struct.error, zlib.error,
        # ...). Their messages can quote the file: not passed on.
        raise InvalidImageError(f"the {image_format} file is damaged or cut off") from error
    if (rgb.width > rgb.height) != (width > height):
        width, height = height, width  # turned upright
    decoded = time.perf_counter()
    tensor = to_input(rgb, contract)
    quality = measure(tensor, width, height)
    return DecodedPicture(tensor, width, height, quality, decoded - started, time.perf_counter() - decoded)


def sniff(body: bytes) -> str:
    """Pillow's name of the format, by magic bytes. Raises UnsupportedFormatError."""
    head = body[:_MAX_SIGNATURE_BYTES]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\x00", b"MM\x00*")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    raise UnsupportedFormatError(f"the file is not a {ACCEPTED} picture")


def _check_header(image: Image.Image, pixel_limit: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidImageError("the picture has no pixels")
    if width * height > pixel_limit:
        raise PayloadTooLargeError(f"the picture has {width} x {height} pixels; at most {pixel_limit} are accepted")
    # A phone's JPEG may carry a second picture (MPO: depth, preview); the first is the photograph.
    if image.format not in ("JPEG", "MPO") and getattr(image, "n_frames", 1) > 1:
        raise InvalidImageError("the file holds several pictures; send a single one")
