"""The decoder turns any bytes into the right tensor or a documented error, and never into anything else."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from model_store.contract.preprocessing import Preprocessing
from model_store.contract.quality import measure
from service.decode import decode
from service.errors import InvalidImageError, PayloadTooLargeError, ServiceError
from tests.conftest import encoded, lesion_picture
from tests.malformed import FORMATS, Case, cases

CONTRACT = Preprocessing(height=64, width=64, resize="squash", reduced_decode_factor=2)
LIMIT = 40_000_000


def tensor(body: bytes) -> np.ndarray:
    return decode(body, CONTRACT, LIMIT).tensor


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_kind_of_input_ends_as_documented(case: Case) -> None:
    """Each of the malformed and unusual inputs gives a tensor or the error of its kind."""
    try:
        decoded = decode(case.body, CONTRACT, LIMIT)
        outcome = (200, "")
        assert decoded.tensor.shape == (64, 64, 3)
        assert decoded.tensor.dtype == np.uint8
    except ServiceError as error:
        outcome = (error.status, error.code)
    assert outcome in case.expected


def test_there_are_two_hundred_cases() -> None:
    """The collection of malformed inputs is as large as promised."""
    assert len(cases()) >= 200


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=2000), kind=st.sampled_from([b"", *(encoded(lesion_picture(32, 24), k) for k in FORMATS)])
)
def test_no_bytes_crash_the_decoder(data: bytes, kind: bytes) -> None:
    """Arbitrary bytes behind a real beginning: a tensor or a ServiceError."""
    with contextlib.suppress(ServiceError):
        tensor(kind[: len(kind) // 2] + data)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_agree(kind: str) -> None:
    """The same picture gives nearly the same tensor in every format."""
    expected = tensor(encoded(lesion_picture(), "PNG")).astype(int)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert np.abs(tensor(encoded(lesion_picture(), kind, **lossless)) - expected).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """A picture stored turned or mirrored gives the tensor of the upright one, and its upright size."""
    upright = lesion_picture(400, 300)
    upright.paste((0, 0, 255), (0, 0, 100, 60))  # so that a wrong turn is seen
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    turned = upright
    for step in stored:
        turned = turned.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(turned, kind, exif=exif, **lossless), CONTRACT, LIMIT)
    assert np.array_equal(decoded.tensor, tensor(encoded(upright, "PNG")))
    assert (decoded.width, decoded.height) == (400, 300)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """A 16-bit grey picture gives the tensor of its 8-bit twin."""
    grey = lesion_picture().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert np.array_equal(tensor(encoded(deep, "PNG")), tensor(encoded(grey, "PNG")))


def test_transparency_is_laid_on_white() -> None:
    """Transparent pixels become white, not whatever colour hides below."""
    hidden = Image.new("RGBA", (80, 60), (10, 20, 30, 0))
    assert (tensor(encoded(hidden, "PNG")) == 255).all()


def test_reduced_decoding_changes_little() -> None:
    """A 12-megapixel JPEG decoded at a reduced scale is within a few levels of the full decoding."""
    large = lesion_picture(600, 450).resize((4000, 3000), Image.Resampling.BICUBIC)
    full = tensor(encoded(large, "PNG")).astype(int)
    reduced = tensor(encoded(large, "JPEG", quality=95))
    assert np.abs(reduced - full).mean() < 2


def test_quality_is_measured_on_the_networks_input_and_the_upright_size() -> None:
    """The same measurement as in training, with the shorter side of the picture as it was sent."""
    decoded = decode(encoded(lesion_picture(300, 400)), CONTRACT, LIMIT)
    assert decoded.quality == measure(decoded.tensor, 300, 400)
    assert decoded.quality.min_side_pixels == 300


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    """A picture over the limit is refused, with the sizes in the message."""
    with pytest.raises(PayloadTooLargeError, match="600 x 450"):
        decode(encoded(lesion_picture()), CONTRACT, 1000)


def test_error_messages_quote_nothing_of_the_file() -> None:
    """A patient's name in the metadata of a damaged file does not come back in the error."""
    body = encoded(lesion_picture(), "JPEG", comment=b"Jane Roe 1970-01-01")[:3000]
    with pytest.raises(InvalidImageError) as refused:
        tensor(body)
    assert "Roe" not in str(refused.value)
