"""Format and size come from the file's own bytes; honest files keep every limit on structure, by far."""

import contextlib
import io

import pytest
from PIL import Image

from service.errors import InvalidImageError, PayloadTooLargeError, ServiceError, UnsupportedFormatError
from service.file_header import describe, refuse_bombs
from tests.conftest import encoded, lesion_picture
from tests.fuzz.originals import Original, originals
from tests.malformed import FORMATS, cases

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
