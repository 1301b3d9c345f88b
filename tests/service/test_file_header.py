"""Format and size come from the file's own bytes; honest files keep every limit on structure, by far."""

import contextlib
import io
import struct
from collections.abc import Callable

import pytest
from PIL import Image

from service.errors import InvalidImageError, PayloadTooLargeError, ServiceError, UnsupportedFormatError
from service.file_header import Header, describe, refuse_bombs
from tests.conftest import encoded, lesion_picture
from tests.fuzz.originals import Original, originals
from tests.malformed import FORMATS, cases, png_with_chunk, tiff

LIMIT = 40_000_000


@pytest.mark.parametrize("original", originals(), ids=lambda original: original.name)
def test_the_size_is_the_one_that_pillow_sees(original: Original) -> None:
    """For every kind of file of the five formats; Pillow names a TIFF's sides as they are when turned upright."""
    header = describe(original.body, LIMIT)
    assert header.image_format == original.image_format
    with Image.open(io.BytesIO(original.body)) as image:
        assert sorted((header.width, header.height)) == sorted(image.size)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_header_is_a_damaged_file(kind: str) -> None:
    """However little of it there is behind the signature."""
    whole = encoded(lesion_picture(64, 48), kind)
    for size in range(12, 24):
        with pytest.raises(InvalidImageError):
            describe(whole[: size if kind != "JPEG" else size * 4], LIMIT)


def test_limits_of_the_size() -> None:
    """Too many pixels, or a side that is too long however short the other one."""
    with pytest.raises(PayloadTooLargeError, match="64 x 48"):
        describe(encoded(lesion_picture(64, 48)), 64 * 48 - 1)
    with pytest.raises(PayloadTooLargeError, match="side"):
        describe(encoded(Image.new("L", (1, 65_536)), "PNG"), LIMIT)


def test_only_five_formats() -> None:
    """GIF is refused even if Pillow could read it."""
    with pytest.raises(UnsupportedFormatError):
        describe(encoded(lesion_picture(), "GIF"), LIMIT)


def test_any_bytes_end_in_an_error_of_the_service() -> None:
    """Nothing else is raised, for all the malformed files that there are."""
    for case in cases():
        with contextlib.suppress(ServiceError):
            refuse_bombs(case.body, describe(case.body, LIMIT), LIMIT)


@pytest.mark.parametrize("original", originals(), ids=lambda original: original.name)
def test_whole_files_are_no_bombs(original: Original) -> None:
    """Nothing is refused for its structure that a real encoder writes."""
    refuse_bombs(original.body, describe(original.body, LIMIT), LIMIT)


def test_rich_metadata_is_no_bomb() -> None:
    """A megabyte of colour profile, in 16 segments or one chunk, and pixels in many pieces are still fine."""
    picture, profile = lesion_picture(1200, 900), bytes(1_000_000)
    for body in (
        encoded(picture, icc_profile=profile),
        encoded(picture, "PNG", icc_profile=profile, compress_level=1),
        encoded(picture, "TIFF", icc_profile=profile, tiffinfo={278: 1}),
        encoded(picture, "WEBP", icc_profile=profile),
        encoded(picture, progressive=True, quality=95),
    ):
        refuse_bombs(body, describe(body, LIMIT), LIMIT)


JPEG = encoded(lesion_picture(64, 48))
PROGRESSIVE = encoded(lesion_picture(64, 48), progressive=True)
SCAN = b"\xff\xda"
MIB = 2**20


def segments(marker: int, data_bytes: int, data: bytes = b"") -> bytes:
    """As many segments of a JPEG as hold so many bytes, filled up with zeros; at least one."""
    whole, rest = divmod(data_bytes, 65_533)
    sizes = [65_533] * whole + [rest] * (rest > 0 or not whole)
    return b"".join(struct.pack(">BBH", 0xFF, marker, size + 2) + data.ljust(size, b"\x00") for size in sizes)


EMPTY = segments(0xE5, 0)


def jpeg_of(put_in: bytes) -> bytes:
    """Behind the signature; the picture itself has nine segments with 585 bytes of data up to the first scan's."""
    return JPEG[:2] + put_in + JPEG[2:]


def tiff_in_tiff(levels: int, numbers: int = 1) -> bytes:
    """An EXIF directory in which stands another, and so on; the innermost has a tag of so many numbers."""
    place = len(tiff({}))
    body = tiff({34665: (4, 1, place)}).ljust(place)
    for level in range(1, levels + 1):
        tag = (34665, 4, 1, place + 18 * level) if level < levels else (50_000, 3, numbers, 0)
        body += struct.pack("<HHHIII", 1, *tag, 0)
    return body


def tiled(width: int, height: int, tiles: int = 1) -> bytes:
    """The picture of 64 x 48 in tiles of this size."""
    return tiff({322: (4, 1, width), 323: (4, 1, height), 324: (4, tiles, 8)})


LIMITS: dict[str, tuple[Callable[[int], bytes], int, str]] = {
    "JPEG segments": (lambda n: jpeg_of(EMPTY * (n - 9)), 4096, "too many segments"),
    "JPEG junk": (lambda n: jpeg_of(EMPTY + bytes(40_000) + EMPTY + bytes(n - 40_000)), 2**16, "no segment where"),
    "JPEG EXIF": (lambda n: jpeg_of(segments(0xE1, 6, b"Exif") * n), 16, "too much EXIF"),
    "JPEG metadata": (lambda n: jpeg_of(segments(0xFE, n - 585)), 8 * MIB, "too much metadata"),
    "JPEG scans": (lambda n: PROGRESSIVE + SCAN * (n - PROGRESSIVE.count(SCAN) + 1), 100, "too many scans"),
    "PNG chunks": (lambda n: png_with_chunk(b"abCd", b"", n - 3), 2**16, "too many chunks"),
    "PNG metadata": (lambda n: png_with_chunk(b"abCd", bytes(n - 13)), 8 * MIB, "too much metadata"),
    "PNG EXIF": (lambda n: png_with_chunk(b"eXIf", bytes(n)), MIB, "too much EXIF"),
    "PNG texts": (lambda n: png_with_chunk(b"zTXt", b"", n), 64, "too many texts"),
    "PNG international texts": (lambda n: png_with_chunk(b"iTXt", b"", n), 64, "too many texts"),
    "PNG profiles": (lambda n: png_with_chunk(b"iCCP", b"", n), 64, "too many texts"),
    "TIFF tags": (lambda n: tiff({50_000 + i: (1, 1, 0) for i in range(n - 7)}), 1024, "too many tags"),
    "TIFF numbers": (lambda n: tiff({50_000: (3, n - 7, 0)}), 2**17, "too much metadata"),
    "TIFF numbers of its EXIF": (lambda n: tiff_in_tiff(1, n), 2**17, "too much metadata"),
    "TIFF directories": (lambda n: tiff_in_tiff(n), 3, "too many directories"),
    "TIFF strips": (lambda n: tiff({273: (4, n, 8), 278: (3, 1, 5)}), 10, "too many strips"),
    "TIFF tiles": (lambda n: tiled(16, 16, n), 12, "too many tiles"),
    "TIFF pixels of a tile": (lambda n: tiled(64, n), 2 * LIMIT // 64, "tiles are too large"),
}


@pytest.mark.parametrize("made", LIMITS)
def test_limits_of_the_structure(made: str) -> None:
    """What lies on a limit passes, one more of the same is refused, and the message names it."""
    make, limit, message = LIMITS[made]
    header = Header(made.split()[0], 64, 48)
    refuse_bombs(make(limit), header, LIMIT)
    with pytest.raises(InvalidImageError, match=message):
        refuse_bombs(make(limit + 1), header, LIMIT)
