"""Pictures to send: made here, so that a load test needs no patient's picture and is the same on every machine."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 600, 450  # pixels, as in HAM10000
JPEG_QUALITY = 94


def make_pictures(number: int, seed: int) -> list[bytes]:
    """JPEG files of 600 x 450 pixels, about 100 to 270 kB each, all different, the same for the same seed."""
    return [_jpeg(_dermatoscopic_picture(np.random.default_rng((seed, index)))) for index in range(number)]


def _dermatoscopic_picture(generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Skin with a darker lesion of irregular border and a noise texture: uint8 [HEIGHT, WIDTH, 3]."""
    skin = _between(generator, (190, 135, 115), (240, 190, 175))
    lesion = _between(generator, (60, 35, 30), (160, 100, 85))
    cover = _lesion_cover(generator)[..., np.newaxis]
    shade = _smooth_noise(generator, cells=6)[..., np.newaxis] * 18
    grain = generator.normal(0.0, generator.uniform(7.0, 45.0), (HEIGHT, WIDTH, 3))
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


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=JPEG_QUALITY)
    return memory.getvalue()
