"""A class map of the network -> a picture to lay over the caller's picture. Runs in a worker thread."""

import base64
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.contract.manifest import Manifest
from model_store.contract.preprocessing import Preprocessing
from service.decode import DecodedPicture
from service.engine import PictureOutput
from service.options import FIRST
from service.schemas import Explanation

_LONGER_SIDE_PIXELS = 448
_FAINT_GREEN = 220  # colours run from yellow, for faint evidence, to red
_COMPRESS_LEVEL = 1  # of 9: 6 ms and 41 kB; the usual 6 takes 20 ms for 27 kB
_NOTE = (
    "An aid that shows where in the picture the network found what speaks for this class. It is no evidence for a "
    "diagnosis, and not the outline of the lesion."
)
_NOTHING_FOUND = " Here nothing in the picture speaks for it."


def explain(
    wanted: str, probabilities: Mapping[str, float], output: PictureOutput, picture: DecodedPicture, manifest: Manifest
) -> Explanation:
    """`wanted` is a class code, or FIRST for the most probable of the `probabilities` that the answer shows."""
    code = max(probabilities, key=probabilities.__getitem__) if wanted == FIRST else wanted
    class_map = output.class_maps[manifest.classes.index(code)]
    buffer = io.BytesIO()
    overlay(class_map, picture.width, picture.height, manifest.preprocessing).save(
        buffer, "PNG", compress_level=_COMPRESS_LEVEL
    )
    return Explanation(
        code=code,
        overlay="data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        note=_NOTE if (class_map > 0).any() else _NOTE + _NOTHING_FOUND,
    )


def overlay(class_map: NDArray[np.float32], width: int, height: int, contract: Preprocessing) -> Image.Image:
    """RGBA in the aspect of a picture of `width` x `height` pixels; alpha / 255 is the evidence, of the greatest there.

    `class_map` float32 [h, w] is what each cell adds to the class's logit; it covers what the network saw.
    """
    scale = _LONGER_SIDE_PIXELS / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Bilinear: what is smoother swings past its neighbours and would show evidence where there is none.
    spread = Image.fromarray(class_map).transform(
        size, Image.Transform.EXTENT, _extent(class_map, width / height, contract), Image.Resampling.BILINEAR
    )
    evidence = np.clip(np.asarray(spread), 0, None)
    evidence /= class_map.max() if (class_map > 0).any() else 1
    pixels = np.zeros((*evidence.shape, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[..., 1] = _FAINT_GREEN * (1 - evidence)
    pixels[..., 3] = 255 * evidence
    return Image.fromarray(pixels)


def _extent(
    class_map: NDArray[np.float32], aspect: float, contract: Preprocessing
) -> tuple[float, float, float, float]:
    """Where the whole picture lies in the map's coordinates: left, upper, right, lower.

    A cropped picture reaches beyond what the network saw, a padded one does not fill it.
    """
    relative = aspect * contract.height / contract.width
    reach = {"squash": (1.0, 1.0), "center_crop": (max(1, relative), max(1, 1 / relative))}
    across, down = reach.get(contract.resize, (min(1, relative), min(1, 1 / relative)))
    rows, columns = class_map.shape
    half_width, half_height = columns * across / 2, rows * down / 2
    return (columns / 2 - half_width, rows / 2 - half_height, columns / 2 + half_width, rows / 2 + half_height)
