"""The overlay shows the evidence that the network found, where it found it, and nothing else."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from model_store.contract.preprocessing import Preprocessing
from service.explain import explain, overlay
from service.schemas import Explanation
from tests.service.stand_ins import CLASSES, CONTRACT, manifest, output, picture

SQUASH = Preprocessing.model_validate(CONTRACT)


def class_maps(code: str, *cells: tuple[int, int], elsewhere: float = -1.0) -> np.ndarray:
    """Maps of 7 x 7 cells in which only `cells` (row, column) speak for `code`."""
    maps = np.full((7, 7, 7), elsewhere, np.float32)
    for cell in cells:
        maps[(CLASSES.index(code), *cell)] = 2.0
    return maps


def explained(wanted: str, maps: np.ndarray, width: int = 600, height: int = 450) -> Explanation:
    probabilities = dict.fromkeys(CLASSES, 0.1) | {"mel": 0.4}
    return explain(wanted, probabilities, output(class_maps=maps), picture(width, height), manifest())


def alpha(explanation: Explanation) -> np.ndarray:
    header, data = explanation.overlay.split(",")
    assert header == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGBA")
        return np.asarray(image)[..., 3]


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(600, 450, (448, 336)), (450, 600, (336, 448)), (30, 30, (448, 448)), (9000, 3, (448, 1)), (224, 224, (448, 448))],
)
def test_the_overlay_has_the_pictures_aspect(width: int, height: int, size: tuple[int, int]) -> None:
    """Longer side 448 pixels, whatever the picture's size."""
    assert alpha(explained("mel", class_maps("mel", (3, 3)), width, height)).shape == size[::-1]


def test_it_is_bright_where_the_map_is_positive_and_clear_elsewhere() -> None:
    """A single cell, second from the top and last but one from the left: opaque there, nothing two cells away."""
    seen = alpha(explained("mel", class_maps("mel", (1, 5))))
    assert np.unravel_index(seen.argmax(), seen.shape) == pytest.approx((336 * 1.5 / 7, 448 * 5.5 / 7), abs=3)
    assert seen.max() > 240
    rows, columns = np.nonzero(seen)
    assert (rows.min() > 336 * 0.5 / 7, rows.max() < 336 * 2.5 / 7) == (True, True)
    assert (columns.min() > 448 * 4.5 / 7, columns.max() < 448 * 6.5 / 7) == (True, True)


def test_no_evidence_is_drawn_where_there_is_none() -> None:
    """A map that is zero or negative everywhere gives a clear picture, and the note says so."""
    for elsewhere in (0.0, -1.0):
        explanation = explained("mel", class_maps("mel", elsewhere=elsewhere))
        assert alpha(explanation).max() == 0
        assert "nothing in the picture speaks for it" in explanation.note


def test_alpha_follows_the_map() -> None:
    """Half the evidence is half as opaque, whatever its absolute size; so is a map that is flat."""
    maps = np.zeros((7, 7, 7), np.float32)
    maps[0, :, :3], maps[0, :, 4:] = 1e-3, 2e-3
    seen = alpha(explained("akiec", maps))
    assert (seen[168, 32], seen[168, 416]) == (pytest.approx(127, abs=2), 255)
    assert (alpha(explained("akiec", np.ones((7, 7, 7), np.float32))) == 255).all()


def test_colours_are_warm() -> None:
    """From yellow to red, never blue."""
    pixels = np.asarray(overlay(np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32), 600, 450, SQUASH))
    assert (pixels[..., 0] == 255).all()
    assert (pixels[..., 2] == 0).all()


def test_first_is_the_most_probable_of_the_answer() -> None:
    """A named class gets its own map."""
    maps = class_maps("mel", (0, 0))
    assert explained("first", maps).code == "mel"
    assert alpha(explained("first", maps)).max() > 240
    assert explained("nv", maps).code == "nv"
    assert alpha(explained("nv", maps)).max() == 0


def test_the_note_says_what_it_is_not() -> None:
    """An aid, no evidence."""
    note = explained("mel", class_maps("mel", (3, 3))).note
    assert "An aid" in note
    assert "no evidence" in note


@pytest.mark.parametrize(
    ("resize", "left", "right"),
    [("squash", 0, 448), ("center_crop", 112, 336), ("pad", 0, 448)],
)
def test_the_map_lies_on_what_the_network_saw(resize: str, left: int, right: int) -> None:
    """On a picture twice as wide as high, a crop shows its middle half and padding the whole width."""
    contract = SQUASH.model_copy(update={"resize": resize})
    seen = np.asarray(overlay(np.ones((7, 7), np.float32), 800, 400, contract))[..., 3]
    columns = np.flatnonzero(seen.max(axis=0))
    assert (columns[0], columns[-1]) == (pytest.approx(left, abs=1), pytest.approx(right - 1, abs=1))


def test_a_padded_picture_gets_the_part_of_the_map_that_is_its_own() -> None:
    """The network's bars above and below a wide picture are not laid over it."""
    bars = np.zeros((4, 4), np.float32)
    bars[0] = bars[3] = 1.0
    seen = np.asarray(overlay(bars, 800, 400, SQUASH.model_copy(update={"resize": "pad"})))[..., 3]
    assert seen[112].max() == 0
    assert seen[100:124].max() < 60
