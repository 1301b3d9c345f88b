"""Generated pictures of every format and kind that the service accepts, small, so that many mutants can be tried."""

import io
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.conftest import encoded, lesion_picture


class Original(NamedTuple):
    """A whole file and Pillow's name of its format."""

    name: str
    image_format: str
    body: bytes


@cache
def originals() -> tuple[Original, ...]:
    """Always the same, in the same order."""
    picture, alpha = lesion_picture(160, 120), lesion_picture(96, 72).convert("RGBA")
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    frames = [lesion_picture(48, 36, seed) for seed in range(3)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    several = {"save_all": True, "append_images": frames[1:]}
    made = [
        ("JPEG", encoded(picture, quality=95)),
        ("JPEG", encoded(lesion_picture(600, 450), quality=95)),
        ("JPEG", encoded(lesion_picture(1200, 900), quality=70)),
        ("JPEG", encoded(picture, subsampling=0, restart_marker_rows=1)),
        ("JPEG", encoded(picture, progressive=True, optimize=True)),
        ("JPEG", encoded(picture.convert("L"))),
        ("JPEG", encoded(picture.convert("CMYK"))),
        ("JPEG", encoded(picture, exif=exif, icc_profile=bytes(3000), comment=b"comment", dpi=(300, 300))),
        ("JPEG", encoded(picture, "MPO", save_all=True, append_images=[picture.resize((64, 48))])),
        *(("PNG", encoded(picture.convert(mode), "PNG")) for mode in ("RGB", "P", "L", "1", "LA")),
        ("PNG", encoded(alpha, "PNG", exif=exif, icc_profile=bytes(3000), dpi=(300, 300))),
        ("PNG", encoded(deep, "PNG")),
        ("PNG", encoded(frames[0], "PNG", **several)),
        ("WEBP", encoded(picture, "WEBP", quality=90)),
        ("WEBP", encoded(picture, "WEBP", lossless=True)),
        ("WEBP", encoded(alpha, "WEBP", quality=80, exif=exif.tobytes(), icc_profile=bytes(3000))),
        ("WEBP", encoded(frames[0], "WEBP", **several)),
        *(("TIFF", encoded(picture, "TIFF", compression=c)) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
        ("TIFF", encoded(picture, "TIFF", compression="packbits", exif=exif, dpi=(300, 300))),
        ("TIFF", encoded(picture, "TIFF", compression="tiff_lzw", tiffinfo={317: 2, 278: 7})),
        ("TIFF", encoded(picture.convert("CMYK"), "TIFF")),
        ("TIFF", encoded(deep, "TIFF", big_endian=True)),
        ("TIFF", encoded(picture.convert("P"), "TIFF")),
        ("TIFF", encoded(frames[0], "TIFF", **several)),
        *(("BMP", encoded(picture.convert(mode), "BMP")) for mode in ("RGB", "P", "L", "1", "RGBA")),
    ]
    return tuple(Original(f"{kind} {place}", kind, body) for place, (kind, body) in enumerate(made))


def opens(original: Original) -> bool:
    """Pillow reads it: it is a right beginning for mutations."""
    with Image.open(io.BytesIO(original.body)) as image:
        image.load()
        return bool(image.width)
