"""Drawn pictures that stand in for dermatoscopic ones: for tests, the smoke run and the golden vectors.

They show nobody's skin. Colour and outline depend on the class, so that a network learns to tell them apart in
seconds; everything follows from the seed.
"""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.config import GeneratedPictures
from training.data import CLASSES

COLLECTION_METADATA = "HAM10000_metadata.csv"
_PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
_MAX_IMAGES_PER_LESION = 3
_SITES = ("back", "lower extremity", "face", "trunk", "")
_SEXES = ("female", "male", "")
_DRAWN_EACH, _DRAWN_SIZES = 30, ((400, 300), (300, 400), (300, 300), (480, 300))
_SKIN = np.array([222.0, 176.0, 156.0])
_DOT_REACH = 0.13  # of a lesion's radius: where a dot has faded out altogether


@dataclass(frozen=True)
class _Look:
    """How a class is drawn: colours as RGB 0..255, raggedness and asymmetry as shares of the radius."""

    rim: tuple[int, int, int]
    centre: tuple[int, int, int]
    raggedness: float
    asymmetry: float
    dots: int
    dot_colour: tuple[int, int, int]


_LOOKS = {
    "akiec": _Look((214, 120, 110), (225, 160, 140), 0.10, 0.1, 14, (245, 225, 205)),
    "bcc": _Look((226, 150, 150), (235, 190, 185), 0.05, 0.1, 9, (90, 100, 140)),
    "bkl": _Look((150, 110, 70), (176, 136, 90), 0.06, 0.1, 16, (95, 65, 40)),
    "df": _Look((190, 140, 115), (238, 222, 210), 0.03, 0.0, 0, (0, 0, 0)),
    "mel": _Look((50, 32, 30), (95, 60, 70), 0.10, 0.6, 8, (25, 20, 35)),
    "nv": _Look((150, 95, 65), (105, 62, 42), 0.03, 0.0, 0, (0, 0, 0)),
    "vasc": _Look((160, 25, 45), (110, 15, 60), 0.04, 0.0, 7, (70, 5, 40)),
}


def write_collection(settings: GeneratedPictures, seed: int, folder: Path) -> None:
    """Write pictures in the published layout of HAM10000: two part folders and the metadata file.

    A lesion has one to three pictures. Overwrites what an earlier call with the same seed wrote.
    """
    for part in _PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    random = np.random.default_rng(seed)
    for number, dx in enumerate(np.repeat(CLASSES, settings.lesions_per_class)):
        lesion = _Lesion(str(dx), random)
        age, sex, site = int(random.integers(4, 17)) * 5, str(random.choice(_SEXES)), str(random.choice(_SITES))
        for _ in range(int(random.integers(1, _MAX_IMAGES_PER_LESION + 1))):
            image_id = f"GEN_{len(rows):07}"
            pixels = lesion.photograph(random, settings.width_pixels, settings.height_pixels)
            Image.fromarray(pixels).save(folder / _PARTS[len(rows) % 2] / f"{image_id}.jpg", quality=92)
            rows.append(
                (f"GENL_{number:07}", image_id, str(dx), "generated", f"{age}.0", sex or "unknown", site or "unknown")
            )
    with (folder / COLLECTION_METADATA).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"))
        table.writerows(rows)


def draw_picture(dx: str, seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """One picture of a lesion of class `dx`: uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    return _Lesion(dx, random).photograph(random, width, height)


def drawn_lesions() -> Iterator[Image.Image]:
    """Drawn lesions of every class and picture shape. The gate lets them in, so that the page's example, the tests and
    the load generator, which may show nobody's skin, are answered as a lesion is.
    """
    for dx in CLASSES:
        for seed in range(1000, 1000 + _DRAWN_EACH):
            width, height = _DRAWN_SIZES[seed % len(_DRAWN_SIZES)]
            yield Image.fromarray(draw_picture(dx, seed, width, height))


def golden_pictures() -> tuple[bytes, ...]:
    """Encoded pictures that take every way through decoding and preprocessing: formats, sizes, shapes, colour types."""
    large = Image.fromarray(draw_picture("mel", 1, 1600, 1200))  # decoded at a reduced scale
    portrait = Image.fromarray(draw_picture("bcc", 2, 450, 600))
    square = Image.fromarray(draw_picture("nv", 3, 300, 300))
    turned = Image.fromarray(draw_picture("vasc", 5, 480, 360))
    small = Image.fromarray(draw_picture("df", 6, 80, 60))  # enlarged
    wide = Image.fromarray(draw_picture("akiec", 7, 640, 240))
    deep = np.asarray(Image.fromarray(draw_picture("bkl", 8, 200, 150)).convert("L")).astype(np.uint16) * 257
    alpha = square.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(square.size))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # EXIF: turn by 90 degrees to see it upright
    return (
        _encoded(large, "JPEG", quality=80),
        _encoded(portrait, "JPEG", quality=90, progressive=True),
        _encoded(alpha.resize((160, 160)), "PNG"),
        _encoded(square.convert("L"), "JPEG", quality=90),
        _encoded(turned, "JPEG", quality=90, exif=orientation),
        _encoded(small, "WEBP", lossless=True),
        _encoded(wide.quantize(64), "PNG"),
        _encoded(Image.fromarray(deep), "TIFF", compression="tiff_adobe_deflate"),
    )


class _Lesion:
    """One lesion: its photographs differ in distance, turn, place and light, not in what it is."""

    def __init__(self, dx: str, random: np.random.Generator) -> None:
        self.look = _LOOKS[dx]
        self.radius = random.uniform(0.22, 0.36)  # of the picture's shorter side
        self.stretch = random.uniform(0.8, 1.25)
        self.waves = random.normal(0, self.look.raggedness, 7)
        self.phases = random.uniform(0, 2 * math.pi, 7)
        self.tone = random.normal(0, 8, 3)
        self.skin = _SKIN + random.normal(0, 9, 3)
        self.dots = random.uniform(-0.75, 0.75, (self.look.dots, 2))

    def photograph(self, random: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 3]."""
        x, y = self._lesion_coordinates(random, width, height)
        angle, distance = np.arctan2(y, x), np.hypot(x, y)
        outline = np.ones_like(angle)
        for wave, (size, phase) in enumerate(zip(self.waves, self.phases, strict=True), start=2):
            outline += size * np.cos(wave * angle + phase)
        depth = distance / np.maximum(outline, 0.3)  # 0 in the centre, 1 on the outline
        inside = _soft_step((1 - depth) / 0.12)[..., None]
        blend = np.clip(1 - depth + self.look.asymmetry * x, 0, 1)[..., None]
        colour = np.array(self.look.rim) * (1 - blend) + np.array(self.look.centre) * blend + self.tone
        picture = self.skin * (1 - inside) + colour * inside
        for dot_x, dot_y in self.dots:
            near = (np.abs(x - dot_x) < _DOT_REACH) & (np.abs(y - dot_y) < _DOT_REACH)
            spot = _soft_step((0.10 - np.hypot(x[near] - dot_x, y[near] - dot_y)) / 0.05)[:, None] * inside[near]
            picture[near] = picture[near] * (1 - spot) + np.array(self.look.dot_colour) * spot
        light = (
            1 + random.normal(0, 0.05) + random.normal(0, 0.04) * x[..., None] + random.normal(0, 0.04) * y[..., None]
        )
        grain = random.normal(0, 2.0, (height, width, 1))
        return np.clip(picture * light + grain, 0, 255).astype(np.uint8)

    def _lesion_coordinates(
        self, random: np.random.Generator, width: int, height: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x and y of every pixel, [height, width] each, in units of the lesion's radius around its centre."""
        unit = self.radius * min(width, height) * random.uniform(0.85, 1.15)
        centre_x, centre_y = width * random.uniform(0.44, 0.56), height * random.uniform(0.44, 0.56)
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        x, y = (x - centre_x) / unit, (y - centre_y) / unit
        turn = random.uniform(0, 2 * math.pi)
        return (x * math.cos(turn) - y * math.sin(turn)) * self.stretch, x * math.sin(turn) + y * math.cos(turn)


def _soft_step(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 below -1/2, 1 above 1/2, a ramp between."""
    return np.clip(value + 0.5, 0, 1)


def _encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
