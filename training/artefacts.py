"""Things that lie on the skin or on the glass and are not the lesion: hair, a ruler, surgical ink, gel bubbles.

Drawn into whole batches, float32 [N, 3, H, W] in [0, 255], with torch operations only. Training draws them at random,
so that none of them says anything about a diagnosis; the evaluation draws them to see how much that helped.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.config import Augmentation

_POINTS = 240  # of one drawn curve; more than the pixels it crosses


def draw(images: Tensor, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """Each artefact on its share of the pictures, in place."""
    for add, probability in (
        (ink, ranges.ink_probability),
        (ruler, ranges.ruler_probability),
        (bubbles, ranges.bubble_probability),
        (hair, ranges.hair_probability),
    ):
        chosen = torch.nonzero(torch.rand(len(images), generator=random) < probability).flatten()
        if len(chosen):
            images[chosen] = add(images[chosen], random)
    return images


def hair(images: Tensor, random: torch.Generator) -> Tensor:
    """Up to 24 thin curved strokes a picture, dark or fair."""
    n, _, height, width = images.shape
    fine = _curves(n, 16, height, width, random)
    thick = functional.max_pool2d(_curves(n, 8, height, width, random), 2, 1, 1)[..., :height, :width]
    cover = torch.maximum(fine, thick) * _uniform((n, 1, 1, 1), 0.5, 0.95, random)
    tone = torch.tensor([0.9, 0.75, 0.6]).view(1, 3, 1, 1) * _uniform((n, 1, 1, 1), 5, 70, random)
    fair = torch.rand((n, 1, 1, 1), generator=random) < 0.15
    return torch.lerp(images, torch.where(fair, 150 + tone, tone).expand_as(images), cover)


def ink(images: Tensor, random: torch.Generator) -> Tensor:
    """Two or three broad strokes of a skin marker, violet to blue."""
    n, _, height, width = images.shape
    side = 2 * (height // 32) + 1
    stroke = functional.max_pool2d(_curves(n, 2, height, width, random), side, 1, side // 2)
    colour = torch.tensor([70.0, 45.0, 130.0]).view(1, 3, 1, 1) + _uniform((n, 3, 1, 1), -35, 35, random)
    return torch.lerp(images, colour.expand_as(images), stroke * _uniform((n, 1, 1, 1), 0.3, 0.85, random))


def ruler(images: Tensor, random: torch.Generator) -> Tensor:
    """The millimetre marks of a scale along one edge."""
    n, _, height, width = images.shape
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    upright = torch.rand((n, 1, 1, 1), generator=random) < 0.5
    along, across = torch.where(upright, y, x), torch.where(upright, x, y)
    across = torch.where(torch.rand((n, 1, 1, 1), generator=random) < 0.5, across, 1 - across)
    pitch = _uniform((n, 1, 1, 1), 0.03, 0.09, random)
    position = along / pitch
    long_mark = (position.floor() % 5 == 0).float()
    length = _uniform((n, 1, 1, 1), 0.03, 0.06, random) * (1 + long_mark)
    edge = _uniform((n, 1, 1, 1), 0.0, 0.08, random)
    mark = (position.frac() * pitch < 1.5 / width) & (across > edge) & (across < edge + length)
    return torch.lerp(images, torch.full_like(images, 25.0), mark.float() * 0.85)


def bubbles(images: Tensor, random: torch.Generator) -> Tensor:
    """Round bubbles in the contact gel: a bright rim, a little glare."""
    n, _, height, width = images.shape
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    rims = torch.zeros((n, 1, height, width))
    for _ in range(4):
        centre_x, centre_y = _uniform((2, n, 1, 1, 1), 0, 1, random)
        radius = _uniform((n, 1, 1, 1), 0.01, 0.06, random)
        distance = torch.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2)
        rims = torch.maximum(rims, (1 - (distance - radius).abs() / 0.012).clamp(0, 1))
    return images + rims * _uniform((n, 1, 1, 1), 20, 110, random)


def _curves(n: int, most: int, height: int, width: int, random: torch.Generator) -> Tensor:
    """Masks [n, 1, height, width] of one to `most` thin quadratic curves across each picture."""
    ends = _uniform((3, 2, n, most, 1), -0.1, 1.1, random)
    ends[1] = torch.lerp(ends[1], (ends[0] + ends[2]) / 2, 0.6)  # hair bends a little, it does not fold
    t = torch.linspace(0, 1, _POINTS)
    points = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]  # [2, n, most, points]
    column, row = (points[0] * width).long(), (points[1] * height).long()
    wanted = torch.arange(most).view(1, most, 1) < torch.randint(1, most + 1, (n, 1, 1), generator=random)
    drawn = wanted & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(n, -1)
    mask = torch.zeros(n, height * width).scatter_reduce_(1, flat, drawn.float().view(n, -1), "amax")
    return mask.view(n, 1, height, width)


def _uniform(shape: tuple[int, ...], low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random) * (high - low) + low
