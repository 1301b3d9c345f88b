"""Pictures to send: made here, so that a load test needs no patient's picture and is the same on every machine."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 600, 450  # pixels, as in HAM10000
JPEG_QUALITY = 97  # with this and the grain below files are as large as those of HAM10000
LEAST_GRAIN, MOST_GRAIN = 26.0, 33.0  # standard deviation of a pixel's noise, in levels


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of picture in a mixed load; `share` is its part of all requests, 0..1."""

    image_format: str  # JPEG or PNG
    width_pixels: int
    height_pixels: int
    share: float

    @property
    def is_small(self) -> bool:
        """Whether it has no more pixels than the standard picture."""
        return self.width_pixels * self.height_pixels <= WIDTH * HEIGHT

    @property
    def content_type(self) -> str:
        """Of the request."""
        return f"image/{self.image_format.lower()}"


# From a thumbnail to a phone's 12 megapixels; the large ones are rare, as each costs as much as dozens of small ones
MIXED_KINDS = (
    Kind("JPEG", 300, 225, 0.25),
    Kind("JPEG", WIDTH, HEIGHT, 0.40),
    Kind("PNG", WIDTH, HEIGHT, 0.15),
    Kind("JPEG", 1600, 1200, 0.10),
    Kind("PNG", 1200, 900, 0.04),
    Kind("JPEG", 4000, 3000, 0.05),
    Kind("PNG", 4000, 3000, 0.01),
)


def make_pictures(number: int, seed: int) -> list[bytes]:
    """JPEG files of 600 x 450 pixels, about 270 kB each, all different, the same for the same seed."""
    return [_file(_picture(seed, index), "JPEG") for index in range(number)]


def make_mixed_pictures(number: int, seed: int) -> dict[Kind, list[bytes]]:
    """`number` files of every kind of MIXED_KINDS, all different, the same for the same seed."""
    files: dict[Kind, list[bytes]] = {}
    for kind in MIXED_KINDS:
        pictures = (_picture(seed, index) for index in range(number))
        size = (kind.width_pixels, kind.height_pixels)
        files[kind] = [
            _file(picture.resize(size, Image.Resampling.BILINEAR), kind.image_format) for picture in pictures
        ]
    return files


def _picture(seed: int, index: int) -> Image.Image:
    return Image.fromarray(_dermatoscopic_picture(np.random.default_rng((seed, index))))


def _dermatoscopic_picture(generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Skin with a darker lesion of irregular border and a noise texture: uint8 [HEIGHT, WIDTH, 3]."""
    skin = _between(generator, (190, 135, 115), (240, 190, 175))
    lesion = _between(generator, (60, 35, 30), (160, 100, 85))
    cover = _lesion_cover(generator)[..., np.newaxis]
    shade = _smooth_noise(generator, cells=6)[..., np.newaxis] * 18
    grain = generator.normal(0.0, generator.uniform(LEAST_GRAIN, MOST_GRAIN), (HEIGHT, WIDTH, 3))
    pixels = skin * (1 - cover) + lesion * cover + shade + grain
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _between(
    generator: np.random.Generator, dark: tuple[int, int, int], light: tuple[int, int, int]
) -> npt.NDArray[np.float64]:
    """A colour on the line between two, RGB in 0..255."""
    step = generator.uniform()
    return np.asarray(dark, dtype=np.float64) * (1 - step) + np.asarray(light, dtype=np.float64) * step


def _lesion_cover(generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """How much of each pixel is lesion: float64 [HEIGHT, WIDTH] in 0..1."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    down = (rows - HEIGHT * generator.uniform(0.4, 0.6)) / generator.uniform(60, 150)
    across = (columns - WIDTH * generator.uniform(0.4, 0.6)) / generator.uniform(60, 180)
    angle = np.arctan2(down, across)
    border = 1 + sum(generator.uniform(0, 0.12) * np.cos(k * angle + generator.uniform(0, 6.3)) for k in (2, 3, 5, 8))
    cover: npt.NDArray[np.float64] = 1 / (1 + np.exp((np.hypot(down, across) - border) * 14))
    return cover


def _smooth_noise(generator: np.random.Generator, cells: int) -> npt.NDArray[np.float64]:
    """Slow changes of light, float64 [HEIGHT, WIDTH], about -1..1: a few random cells, enlarged."""
    coarse = Image.fromarray(generator.normal(0.0, 0.5, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64)


def _file(picture: Image.Image, image_format: str) -> bytes:
    memory = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if image_format == "JPEG" else {"compress_level": 1}
    picture.save(memory, image_format, **options)
    return memory.getvalue()
