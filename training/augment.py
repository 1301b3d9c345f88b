"""Random changes that a dermatoscopic picture survives: the lesion stays what it is, the camera and clinic vary.

All work on a whole batch at once, on the CPU (a tenth of a training step there). Pictures come squashed to a square
with their true aspect beside them, so that a rotation turns the lesion and does not shear it.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training import artefacts
from training.config import Augmentation

_LUMA = (0.299, 0.587, 0.114)


def augment(squashed: Tensor, aspects: Tensor, pixels: int, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """uint8 [N, S, S, 3] and aspects [N] -> float32 [N, 3, pixels, pixels] in [0, 255]."""
    images = squashed.permute(0, 3, 1, 2).float()
    images = _new_view(images, aspects, pixels, ranges, random)
    images = _focus(images, ranges, random)
    images = artefacts.draw(images, ranges, random)
    images = _colour(images, ranges, random)
    images = _dark_corners(images, ranges, random)
    images = _erase(images, ranges, random)
    if ranges.noise:
        scale = _uniform(len(images), 0, ranges.noise, random).view(-1, 1, 1, 1)
        images = images + scale * torch.randn(images.shape, generator=random)
    images = _jpeg(images.clamp_(0, 255), ranges, random)
    return images.contiguous(memory_format=torch.channels_last)


def served_view(squashed: Tensor, aspects: Tensor, pixels: int, square: bool) -> Tensor:
    """As a picture is served: its whole frame, squashed, or the `square` in its middle. Shapes as in `augment`."""
    images = squashed.permute(0, 3, 1, 2).float()
    if not square:
        return functional.interpolate(images, (pixels, pixels), mode="bilinear", antialias=True)
    shares = torch.stack([(1 / aspects).clamp(max=1), aspects.clamp(max=1)], 1)  # of width and height
    grid = functional.affine_grid(
        torch.cat([torch.diag_embed(shares), torch.zeros(len(shares), 2, 1)], 2),
        [len(images), 3, pixels, pixels],
        align_corners=False,
    )
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _new_view(images: Tensor, aspects: Tensor, pixels: int, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """Look at the picture with a camera that is turned, mirrored, closer, and of another picture shape.

    Output square [-1, 1]^2 -> frame of the new camera (true proportions) -> turned -> source square. Half of the
    views have the shape of the view that is served: the picture's own, squashed, or a square.
    """
    n = len(images)
    quarter_turns = torch.randint(0, 4, (n,), generator=random)
    turned = quarter_turns % 2 == 1
    extent_x = torch.where(turned, torch.ones(n), aspects)  # the frame's half sides as the turned camera sees them
    extent_y = torch.where(turned, aspects, torch.ones(n))
    view_aspect = torch.exp(_uniform(n, math.log(ranges.aspect[0]), math.log(ranges.aspect[1]), random))
    served = torch.ones(n) if ranges.square_views else extent_x / extent_y
    view_aspect = torch.where(torch.rand(n, generator=random) < 0.5, served, view_aspect)
    zoom = torch.exp(_uniform(n, math.log(ranges.zoom[0]), math.log(ranges.zoom[1]), random))
    half_height = zoom * torch.minimum(extent_y, extent_x / view_aspect)
    half_width = half_height * view_aspect
    mirror = torch.where(torch.rand(n, generator=random) < 0.5, -1.0, 1.0)

    # The new centre lies anywhere that keeps the view inside the frame (or centred where it does not fit).
    shift_x = (extent_x - half_width).clamp(min=0) * _uniform(n, -1, 1, random)
    shift_y = (extent_y - half_height).clamp(min=0) * _uniform(n, -1, 1, random)
    tilt = torch.deg2rad(_uniform(n, -ranges.rotation_degrees, ranges.rotation_degrees, random))
    cos, sin = torch.cos(tilt), torch.sin(tilt)
    to_frame = torch.stack(
        [
            torch.stack([mirror * half_width * cos, -half_height * sin, shift_x], 1),
            torch.stack([mirror * half_width * sin, half_height * cos, shift_y], 1),
        ],
        1,
    )
    turn = quarter_turns * (math.pi / 2)
    cos, sin = torch.cos(turn), torch.sin(turn)
    to_source = torch.stack([torch.stack([cos / aspects, -sin / aspects], 1), torch.stack([sin, cos], 1)], 1)
    grid = functional.affine_grid(to_source @ to_frame, [n, 3, pixels, pixels], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _focus(images: Tensor, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """Blur some pictures, sharpen a few: optics and the resizing of other cameras differ."""
    chosen = torch.nonzero(torch.rand(len(images), generator=random) < ranges.blur_probability).flatten()
    amount = _uniform(len(chosen), -0.4, 1.0, random).view(-1, 1, 1, 1)
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (line[:, None] * line[None, :]).expand(3, 1, 5, 5)
    sharp = images[chosen]
    if len(chosen):
        blurred = functional.conv2d(functional.pad(sharp, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
        images[chosen] = torch.lerp(sharp, blurred, amount)
    return images


def _colour(images: Tensor, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """Lamp, white balance, exposure and tone curve of another dermatoscope."""
    n = len(images)
    gains = torch.exp(_uniform(n * 3, -ranges.white_balance, ranges.white_balance, random)).view(n, 3, 1, 1)
    images = images * gains * torch.exp(_factor(n, ranges.brightness, random))
    grey = (images * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    images = torch.lerp(grey.expand_as(images), images, torch.exp(_factor(n, ranges.saturation, random)))
    mean = grey.mean((2, 3), keepdim=True)
    images = torch.lerp(mean.expand_as(images), images, torch.exp(_factor(n, ranges.contrast, random)))
    return 255 * (images / 255).clamp(1e-4, 1) ** torch.exp(_factor(n, ranges.gamma, random))


def _dark_corners(images: Tensor, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """The round black edge of a dermatoscope's tube."""
    n, _, height, width = images.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    centre = _uniform(2 * n, -0.08, 0.08, random).view(2, n, 1, 1)
    distance = torch.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
    radius = _uniform(n, 0.9, 1.35, random).view(-1, 1, 1)
    inside = ((radius - distance) / 0.03).clamp(0, 1).unsqueeze(1)
    chosen = (torch.rand(n, generator=random) < ranges.dark_corner_probability).view(-1, 1, 1, 1)
    return torch.where(chosen, images * inside, images)


def _erase(images: Tensor, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """Cover a rectangle with the picture's mean colour, so that no single detail decides."""
    n, _, height, width = images.shape
    half = _uniform(2 * n, 0.1, 0.25, random).view(2, n, 1, 1)
    centre = _uniform(2 * n, 0.0, 1.0, random).view(2, n, 1, 1)
    y = torch.linspace(0, 1, height).view(1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, -1)
    covered = ((x - centre[0]).abs() < half[0]) & ((y - centre[1]).abs() < half[1])
    chosen = (torch.rand(n, generator=random) < ranges.erase_probability).view(-1, 1, 1)
    return torch.where((covered & chosen).unsqueeze(1), images.mean((2, 3), keepdim=True), images)


def _jpeg(images: Tensor, ranges: Augmentation, random: torch.Generator) -> Tensor:
    """Save some pictures as JPEG and open them again: blocks and lost colour are not the lesion's."""
    chosen = torch.nonzero(torch.rand(len(images), generator=random) < ranges.jpeg_probability).flatten()
    qualities = _uniform(len(images), 30, 95, random).int()
    for index in chosen.tolist():
        pixels = images[index].permute(1, 2, 0).round().to(torch.uint8).numpy()
        saved = io.BytesIO()
        Image.fromarray(pixels).save(saved, "JPEG", quality=int(qualities[index]))
        images[index] = torch.from_numpy(np.array(Image.open(saved))).permute(2, 0, 1).float()
    return images


def _factor(n: int, spread: float, random: torch.Generator) -> Tensor:
    return _uniform(n, -spread, spread, random).view(n, 1, 1, 1)


def _uniform(n: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(n, generator=random) * (high - low) + low
