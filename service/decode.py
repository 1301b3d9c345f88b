"""Untrusted bytes -> the network's input. Runs in a worker thread; touches nothing but its arguments.

The format is what the first bytes say, whatever the caller claims. Limits are checked on the file's own bytes, before
Pillow sees them. Only the named Pillow plugins ever do.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model_store.contract.preprocessing import Preprocessing, UnsupportedPixelsError, load_rgb, to_input
from model_store.contract.quality import PictureQuality, measure
from service.errors import InvalidImageError, ServiceError
from service.file_header import EXIF_LIMIT_BYTES, Header, describe, refuse_bombs

# Pillow's own guard has another limit and only warns near it; `describe` is the guard here.
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
    with _opened(body, pixel_limit) as image:
        width, height = image.size
        rgb = load_rgb(image, contract)
    if (rgb.width > rgb.height) != (width > height):
        width, height = height, width  # turned upright
    decoded = time.perf_counter()
    tensor = to_input(rgb, contract)
    quality = measure(tensor, width, height)
    return DecodedPicture(tensor, width, height, quality, decoded - started, time.perf_counter() - decoded)


@contextmanager
def _opened(body: bytes, pixel_limit: int) -> Iterator[Image.Image]:
    """The picture, its header read and within the limits; whatever goes wrong with it inside is a ServiceError."""
    header = describe(body, pixel_limit)
    refuse_bombs(body, header, pixel_limit)
    try:
        with Image.open(io.BytesIO(body), formats=[header.image_format]) as image:
            _check_opened(image, header)
            # Its decoder gets the file in one piece, not 64 kB at a time with the interpreter's lock taken in between.
            image.decodermaxblock = max(image.decodermaxblock, len(body))
            yield image
    except ServiceError:
        raise
    except UnsupportedPixelsError as error:
        raise InvalidImageError(str(error)) from error
    except UnidentifiedImageError as error:
        raise InvalidImageError(f"the file is damaged: it starts like {header.image_format} but is none") from error
    except Exception as error:
        # Damaged files make Pillow's plugins raise nearly anything (OSError, SyntaxError, struct.error, zlib.error,
        # ...). Their messages can quote the file: not passed on.
        raise InvalidImageError(f"the {header.image_format} file is damaged or cut off") from error


def _check_opened(image: Image.Image, header: Header) -> None:
    """Pillow must see what the limits were checked on; its TIFF plugin names the turned size."""
    if sorted(image.size) != sorted(header[1:]):
        raise InvalidImageError(f"the {header.image_format} file contradicts itself")
    if len(image.info.get("exif", b"")) > EXIF_LIMIT_BYTES:
        raise InvalidImageError(f"the {header.image_format} file has too much EXIF")
    # A phone's JPEG may carry a second picture (MPO: depth, preview); the first is the photograph. Not `n_frames`: it
    # would walk through a TIFF's whole chain of directories, in quadratic time.
    if image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False):
        raise InvalidImageError("the file holds several pictures; send a single one")
