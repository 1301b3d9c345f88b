"""Pictures for the page: drawn lesions of many looks, spoilt ones, and pictures of something else. Nobody's skin."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tests.conftest import encoded

EXAMPLE = Path(__file__).parents[2] / "service" / "page" / "example.jpg"
WIDTH, HEIGHT = 600, 450


def lesions() -> Iterator[bytes]:
    """The page's example, then ever closer, off-centre and contrasty takes of it."""
    example = Image.open(EXAMPLE).convert("RGB")
    for contrast, side, off in itertools.product((1.0, 1.4, 1.8, 2.3), (1.0, 0.7, 0.5, 0.35), (0, 60, -60)):
        left, top = WIDTH * (1 - side) / 2 + off * side, HEIGHT * (1 - side) / 2 + off * side / 2
        box = (round(left), round(top), round(left + WIDTH * side), round(top + HEIGHT * side))
        yield encoded(ImageEnhance.Contrast(example.crop(box).resize((WIDTH, HEIGHT))).enhance(contrast))


def spoilt(how: str) -> bytes:
    """The example, `blurred`, `black` or `bright` beyond use."""
    example = Image.open(EXAMPLE).convert("RGB")
    if how == "blurred":
        return encoded(example.filter(ImageFilter.GaussianBlur(14)))
    return encoded(ImageEnhance.Brightness(example).enhance({"black": 0.02, "bright": 6.0}[how]))


def no_lesion(kind: str) -> bytes:
    """Coloured `noise`, or a drawn `landscape`: sky, hills, a house with windows."""
    if kind == "noise":
        return encoded(Image.fromarray(np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)))
    image = Image.new("RGB", (WIDTH, HEIGHT), (96, 160, 226))
    pen = ImageDraw.Draw(image)
    pen.polygon([(0, 300), (150, 180), (330, 290), (470, 200), (600, 280), (600, 450), (0, 450)], (62, 122, 58))
    pen.rectangle((340, 220, 520, 380), (214, 204, 190))
    pen.polygon([(320, 220), (430, 130), (540, 220)], (140, 52, 40))
    for left in (365, 410, 455):
        pen.rectangle((left, 250, left + 28, 290), (40, 60, 90))
    pen.ellipse((60, 40, 120, 100), (252, 236, 120))
    return encoded(image)
