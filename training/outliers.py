"""Pictures that the network must not judge: what the gate learns from, and what it is measured on.

Three kinds (`KINDS` less the lesions): dermatoscopic pictures of other diagnoses, close-up photographs of skin, and
pictures of anything else: drawn here, or photographs that the installed packages ship as samples. Each is split in
two by its source, so that the gate is never measured on a lesion, a photograph or a drawing that it has seen.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from training.config import Data
from training.data import Picture, read_outliers

Kind = Literal["other_diagnosis", "close_up", "no_lesion"]
Half = Literal["fit", "test"]

_PACKAGES = {  # samples that come with the installed packages: (module, folder)
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_CROPS = 8  # views of one photograph: the whole and parts of it
_DRAWN_EACH = 24  # pictures of each drawing, in each half
_SIDE = 320


@dataclass(frozen=True)
class Outlier:
    """One picture of what is no lesion of the seven classes, and the half that its source belongs to."""

    kind: Kind
    half: Half
    source: str
    open: Callable[[], Image.Image]


def outliers(data: Data, root: Path, seed: int) -> Iterator[Outlier]:
    """All outliers there are: of the configured collections, drawn ones, and the packages' photographs."""
    for picture in read_outliers(data, root):
        kind: Kind = "close_up" if picture.dx == "close_up" else "other_diagnosis"
        yield Outlier(kind, _half(picture.lesion_id), picture.image_id, partial(_opened, picture))
    yield from _drawn(seed)
    yield from _photographs(seed)


def _half(source: str) -> Half:
    """By the source's name, so that a picture stays in its half whatever else is added."""
    return "fit" if hashlib.sha256(source.encode()).digest()[0] % 2 else "test"


def _opened(picture: Picture) -> Image.Image:
    with Image.open(picture.file) as image:
        return image.convert("RGB")


def _photographs(seed: int) -> Iterator[Outlier]:
    """Every sample photograph of the packages whole, and parts of it."""
    for package, folder in _PACKAGES.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        files = (file for file in (Path(spec.origin).parent / folder).iterdir() if file.suffix.lower() in _SUFFIXES)
        for file in sorted(files):
            name = f"{package}/{file.name}"
            for view in range(_CROPS):
                yield Outlier("no_lesion", _half(name), name, partial(_view, file, view, seed))


def _view(file: Path, view: int, seed: int) -> Image.Image:
    """The whole photograph (view 0) or a random part of it, at least a quarter of its side."""
    with Image.open(file) as image:
        rgb = image.convert("RGB")
    if view == 0:
        return rgb
    random = np.random.default_rng([seed, view])
    share = random.uniform(0.25, 0.9)
    width, height = max(1, int(rgb.width * share)), max(1, int(rgb.height * share))
    left, upper = int(random.integers(0, rgb.width - width + 1)), int(random.integers(0, rgb.height - height + 1))
    return rgb.crop((left, upper, left + width, upper + height))


def _drawn(seed: int) -> Iterator[Outlier]:
    """Every drawing many times; half of the kinds of drawing are never learnt from."""
    for number, draw in enumerate(_DRAWINGS):
        half: Half = "fit" if number % 2 == 0 else "test"
        for index in range(_DRAWN_EACH):
            random = np.random.default_rng([seed, number, index])
            yield Outlier("no_lesion", half, f"drawn/{draw.__name__.strip('_')}", partial(draw, random))


def _flat(random: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (_SIDE, _SIDE), _colour(random))


def _gradient(random: np.random.Generator) -> Image.Image:
    ramp = np.linspace(0, 1, _SIDE)[None, :, None] * np.ones((_SIDE, 1, 1))
    pixels = ramp * np.array(_colour(random)) + (1 - ramp) * np.array(_colour(random))
    return Image.fromarray(pixels.astype(np.uint8)).rotate(float(random.uniform(0, 360)))


def _white_noise(random: np.random.Generator) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))


def _clouds(random: np.random.Generator) -> Image.Image:
    """Noise whose power falls with frequency, coloured: like many natural textures."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_SIDE), np.fft.fftfreq(_SIDE)))
    spectrum = 1 / np.maximum(frequency, 1 / _SIDE) ** random.uniform(0.8, 2.2)
    layers = [np.fft.ifft2(np.fft.fft2(random.normal(size=(_SIDE, _SIDE))) * spectrum).real for _ in range(3)]
    pixels = np.stack([128 + 60 * layer / layer.std() for layer in layers], axis=2)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _stripes(random: np.random.Generator) -> Image.Image:
    x = np.arange(_SIDE)[None, :, None] * np.ones((_SIDE, 1, 1))
    wave = 0.5 + 0.5 * np.sign(np.sin(x * 2 * math.pi / random.uniform(6, 60)))
    pixels = wave * np.array(_colour(random)) + (1 - wave) * np.array(_colour(random))
    return Image.fromarray(pixels.astype(np.uint8)).rotate(float(random.uniform(0, 180)))


def _chequers(random: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] // int(random.integers(6, 50))
    odd = ((x + y) % 2)[..., None]
    return Image.fromarray((odd * np.array(_colour(random)) + (1 - odd) * np.array(_colour(random))).astype(np.uint8))


def _page(random: np.random.Generator) -> Image.Image:
    """A printed page: lines of words."""
    page = Image.new("RGB", (_SIDE, int(_SIDE * 1.3)), (int(random.integers(225, 256)),) * 3)
    pen = ImageDraw.Draw(page)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    for top in range(12, page.height - 12, int(random.integers(12, 22))):
        pen.text((14, top), "".join(random.choice(letters, 48)), fill=(int(random.integers(0, 90)),) * 3)
    return page


def _chart(random: np.random.Generator) -> Image.Image:
    """Bars on white, as in a slide or a screenshot."""
    chart = Image.new("RGB", (_SIDE, _SIDE), "white")
    pen = ImageDraw.Draw(chart)
    pen.line([(30, 10), (30, _SIDE - 30), (_SIDE - 10, _SIDE - 30)], fill="black", width=2)
    for left in range(45, _SIDE - 30, 34):
        pen.rectangle((left, int(random.integers(20, _SIDE - 40)), left + 22, _SIDE - 31), fill=_colour(random))
    return chart


def _shapes(random: np.random.Generator) -> Image.Image:
    """Rectangles, discs and lines in any colour."""
    canvas = Image.new("RGB", (_SIDE, _SIDE), _colour(random))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(random.integers(3, 12))):
        corner, size = random.integers(-20, _SIDE, 2), random.integers(15, 160, 2)
        box = (*corner.tolist(), *(corner + size).tolist())
        (pen.rectangle if random.random() < 0.5 else pen.ellipse)(box, fill=_colour(random))
        pen.line([tuple(p) for p in random.integers(0, _SIDE, (2, 2)).tolist()], fill=_colour(random), width=3)
    return canvas


def _scene(random: np.random.Generator) -> Image.Image:
    """A horizon, a sun, hills, a house: what a holiday picture is made of."""
    scene = _gradient(random)
    pen = ImageDraw.Draw(scene)
    horizon = int(random.integers(120, 230))
    pen.rectangle((0, horizon, _SIDE, _SIDE), fill=_colour(random))
    x, y = random.integers(20, 280, 2)
    pen.ellipse((int(x), int(y) // 3, int(x) + 50, int(y) // 3 + 50), fill=(250, 230, 120))
    for _ in range(3):
        peak = int(random.integers(0, _SIDE))
        pen.polygon(
            [(peak - 110, horizon), (peak, horizon - int(random.integers(30, 110))), (peak + 120, horizon)],
            fill=_colour(random),
        )
    pen.rectangle((int(x), horizon - 10, int(x) + 60, horizon + 45), fill=_colour(random))
    return scene


def _plain_skin(random: np.random.Generator) -> Image.Image:
    """Skin without anything on it, from light to dark, softly mottled."""
    tone = np.array([224.0, 178.0, 155.0]) * random.uniform(0.3, 1.1) + random.normal(0, 8, 3)
    mottle = np.asarray(_clouds(random).convert("L").filter(ImageFilter.GaussianBlur(6)), float)[..., None] - 128
    pixels = tone + mottle * random.uniform(0.02, 0.12) + random.normal(0, 2, (_SIDE, _SIDE, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _weave(random: np.random.Generator) -> Image.Image:
    """Cloth: two crossed waves with grain."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE].astype(float)
    pitch = random.uniform(3, 14)
    wave: NDArray[np.float64] = (np.sin(x * 2 * math.pi / pitch) + np.sin(y * 2 * math.pi / pitch))[..., None] / 4 + 0.5
    pixels = wave * np.array(_colour(random)) + 40 * random.random((_SIDE, _SIDE, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


# Every other one is learnt from, the rest only measured (see `_drawn`).
_DRAWINGS = (
    _flat, _gradient, _clouds, _white_noise, _stripes, _chequers, _page, _chart, _shapes, _scene, _plain_skin, _weave,
)  # fmt: skip
