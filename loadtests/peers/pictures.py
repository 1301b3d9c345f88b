"""The pictures that all candidates get, also as files for the bare loop."""

import io
import math
from pathlib import Path

from PIL import Image

from loadtests.pictures import make_pictures

LARGE_JPEG_QUALITY = 92


def peer_pictures(folder: Path, number: int, seed: int, megapixels: float | None) -> list[bytes]:
    """JPEG files as the load test sends them, or enlarged to about `megapixels`; written to `folder` as well."""
    pictures = make_pictures(number, seed)
    if megapixels is not None:
        pictures = [_enlarged(picture, megapixels) for picture in pictures]
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        (folder / f"{index:04}.jpg").write_bytes(picture)
    return pictures


def _enlarged(picture: bytes, megapixels: float) -> bytes:
    memory = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        factor = math.sqrt(megapixels * 1e6 / (image.width * image.height))
        size = (round(image.width * factor), round(image.height * factor))
        image.resize(size, Image.Resampling.BICUBIC).save(memory, "JPEG", quality=LARGE_JPEG_QUALITY)
    return memory.getvalue()
