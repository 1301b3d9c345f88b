"""Draws example.jpg: a synthetic picture that looks dermatoscopic, so that nobody's skin is needed for a demonstration.

Run `python service/page/make_example.py` to write it anew; the seed is fixed, so the picture stays the same.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 600, 450
SEED = 20240611

Plane = NDArray[np.float64]  # [HEIGHT, WIDTH]
Picture = NDArray[np.float64]  # [HEIGHT, WIDTH, 3], 0 to 255


def smooth_noise(rng: np.random.Generator, cell_px: int) -> Plane:
    """Return noise of mean 0 and deviation 1 whose features are about `cell_px` wide."""
    coarse = rng.standard_normal((HEIGHT // cell_px + 3, WIDTH // cell_px + 3)).astype(np.float32)
    noise = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64)
    standard: Plane = (noise - noise.mean()) / noise.std()
    return standard


def smooth_step(value: Plane, low: float, high: float) -> Plane:
    """Return 0 below `low`, 1 above `high` and a soft slope between them."""
    slope = np.clip((value - low) / (high - low), 0.0, 1.0)
    return slope * slope * (3.0 - 2.0 * slope)


def blend(picture: Picture, colour: tuple[int, int, int], weight: Plane) -> Picture:
    """Return the picture moved towards `colour` by `weight` (0 to 1) at each pixel."""
    return picture + (np.array(colour) - picture) * weight[..., None]


def pigment_network(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Return 1 on the dark lines of a honeycomb and 0 in its holes, bent so that it does not look ruled."""
    bent_x, bent_y = x + 2.6 * smooth_noise(rng, 26), y + 2.6 * smooth_noise(rng, 26)
    waves = [np.cos(0.74 * (bent_x * np.cos(a) + bent_y * np.sin(a))) for a in (0.3, 0.3 + np.pi / 3, 0.3 - np.pi / 3)]
    return 1.0 - smooth_step(np.sum(waves, axis=0), -1.3, 0.9)


def draw_skin(rng: np.random.Generator) -> Picture:
    """Return light skin: uneven, finely furrowed, a little reddened in places."""
    skin = np.empty((HEIGHT, WIDTH, 3))
    skin[:] = (224, 178, 160)
    skin = blend(skin, (206, 140, 128), 0.28 * smooth_step(smooth_noise(rng, 90), -0.4, 1.6))
    skin = blend(skin, (240, 206, 190), 0.35 * smooth_step(smooth_noise(rng, 60), -0.2, 1.8))
    skin = blend(skin, (196, 142, 126), 0.16 * smooth_step(np.abs(smooth_noise(rng, 9)), 0.5, 0.0))
    return skin + (2.0 * smooth_noise(rng, 3) + 1.5 * rng.standard_normal((HEIGHT, WIDTH)))[..., None]


def draw_lesion(rng: np.random.Generator, skin: Picture, x: Plane, y: Plane) -> Picture:
    """Return the skin with a brown mole on it: irregular border, network outside, darker centre, a few dots."""
    turned_x, turned_y = 0.94 * x + 0.34 * y, -0.34 * x + 0.94 * y
    radius = np.hypot(turned_x / 150, turned_y / 108) + 0.06 * smooth_noise(rng, 70) + 0.02 * smooth_noise(rng, 16)
    body = 1.0 - smooth_step(radius, 0.66, 1.1)
    picture = blend(skin, (158, 98, 70), 0.84 * body)
    picture = blend(picture, (86, 50, 40), 0.46 * body * pigment_network(rng, x, y) * smooth_step(radius, 0.05, 0.6))
    picture = blend(picture, (92, 54, 42), 0.7 * (1.0 - smooth_step(radius + 0.1 * smooth_noise(rng, 30), 0.15, 0.68)))
    picture = blend(picture, (122, 98, 98), 0.3 * body * smooth_step(smooth_noise(rng, 48), 0.6, 1.7))
    for _ in range(34):
        angle, distance, size = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0.02, 0.75)), rng.uniform(1.6, 3.8)
        dot_x, dot_y = 118 * distance * np.cos(angle), 84 * distance * np.sin(angle)
        dot = 1.0 - smooth_step(np.hypot(x - dot_x, y - dot_y), size * 0.5, size * 1.5)
        picture = blend(picture, (58, 34, 32), 0.6 * dot)
    return picture


def draw_hairs(rng: np.random.Generator, picture: Picture) -> Picture:
    """Return the picture with a few fine hairs across it."""
    mask = Image.new("L", (2 * WIDTH, 2 * HEIGHT))
    pen = ImageDraw.Draw(mask)
    along = np.linspace(0.0, 1.0, 40)
    for _ in range(7):
        start, heading = rng.uniform((0, 0), (2 * WIDTH, 2 * HEIGHT)), rng.uniform(0.5, 1.1)
        length, bend = rng.uniform(240, 520), rng.uniform(-70, 70)
        hair_x = start[0] + length * along * np.cos(heading) - bend * np.sin(np.pi * along)
        hair_y = start[1] + length * along * np.sin(heading) + bend * np.sin(np.pi * along)
        pen.line(list(zip(hair_x, hair_y, strict=True)), fill=190, width=3, joint="curve")
    thin = mask.filter(ImageFilter.GaussianBlur(0.9)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return blend(picture, (62, 44, 38), 0.75 * np.asarray(thin, dtype=np.float64) / 255)


def draw_bubbles(rng: np.random.Generator, picture: Picture, x: Plane, y: Plane) -> Picture:
    """Return the picture with gel bubbles: bright thin rings with a glint."""
    for _ in range(6):
        angle, distance, size = rng.uniform(0, 2 * np.pi), rng.uniform(165, 225), rng.uniform(4, 10)
        far_x, far_y = x - 1.1 * distance * np.cos(angle), y - 0.85 * distance * np.sin(angle)
        ring = np.exp(-(((np.hypot(far_x, far_y) - size) / 1.1) ** 2))
        glint = np.exp(-(np.hypot(far_x + size * 0.4, far_y + size * 0.4) ** 2) / 5)
        picture = blend(picture, (250, 236, 228), np.clip(0.42 * ring + 0.7 * glint, 0, 1))
    return picture


def draw_example() -> Image.Image:
    """Return the whole picture, as seen through a dermatoscope with dark corners."""
    rng = np.random.default_rng(SEED)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    x, y = columns - WIDTH / 2 + 6, rows - HEIGHT / 2 - 4
    picture = draw_bubbles(rng, draw_hairs(rng, draw_lesion(rng, draw_skin(rng), x, y)), x, y)
    from_centre = np.hypot(columns - WIDTH / 2, rows - HEIGHT / 2)
    picture *= (1.06 - 0.28 * (from_centre / 375) ** 2)[..., None]
    picture = blend(picture, (14, 10, 10), smooth_step(from_centre, 322, 342))
    drawn = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return drawn.filter(ImageFilter.GaussianBlur(0.6))


if __name__ == "__main__":
    draw_example().save(Path(__file__).with_name("example.jpg"), quality=88, optimize=True)
