"""Augmentation changes the camera and the clinic, never the tensor's shape, range or reproducibility."""

import pytest
import torch

from training.augment import augment
from training.config import Augmentation, Config

NOTHING = Augmentation(
    zoom=(1.0, 1.0),
    rotation_degrees=0,
    aspect=(1.0, 1.0),
    brightness=0,
    contrast=0,
    saturation=0,
    white_balance=0,
    gamma=0,
    blur_probability=0,
    noise=0,
    dark_corner_probability=0,
    erase_probability=0,
)
STRONG = Augmentation(
    zoom=(0.5, 1.1),
    rotation_degrees=45,
    aspect=(0.7, 1.6),
    brightness=0.5,
    contrast=0.5,
    saturation=0.5,
    white_balance=0.3,
    gamma=0.5,
    blur_probability=1,
    noise=10,
    dark_corner_probability=0.5,
    erase_probability=0.5,
)


def pictures(n: int = 6, side: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def augmented(ranges: Augmentation, seed: int = 0, pixels: int = 64) -> torch.Tensor:
    return augment(pictures(), torch.full((6,), 4 / 3), pixels, ranges, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pixels", [32, 64, 96])
def test_shape_and_range(pixels: int) -> None:
    """float32 [N, 3, pixels, pixels] within [0, 255], however strong the changes."""
    images = augmented(STRONG, pixels=pixels)
    assert images.shape == (6, 3, pixels, pixels)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 255
    assert torch.isfinite(images).all()


def test_same_generator_same_pictures() -> None:
    """What is drawn follows from the generator alone; another seed gives other pictures."""
    assert torch.equal(augmented(STRONG, 3), augmented(STRONG, 3))
    assert not torch.equal(augmented(STRONG, 3), augmented(STRONG, 4))


def test_global_random_state_is_left_alone() -> None:
    """Dropout and order draw from other generators: augmentation must not disturb them."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    augmented(STRONG)
    assert torch.equal(before, torch.get_rng_state())


def test_identity_ranges_only_turn_and_mirror() -> None:
    """With every range at its neutral value a square picture comes out as one of its eight symmetric views."""
    squares = pictures()
    out = augment(squares, torch.ones(6), 48, NOTHING, torch.Generator().manual_seed(2))
    for image, result in zip(squares.permute(0, 3, 1, 2).float(), out, strict=True):
        views = [v for turn in range(4) for v in (image.rot90(turn, (1, 2)), image.rot90(turn, (1, 2)).flip(2))]
        assert min((result - view).abs().max().item() for view in views) < 0.1


def test_stronger_colour_changes_more(smoke_config: Config) -> None:
    """The ranges do something: the shipped strong ones move pixels further than the neutral ones."""
    gentle = augmented(smoke_config.augmentation).sub(augmented(NOTHING)).abs().mean()
    assert augmented(STRONG).sub(augmented(NOTHING)).abs().mean() > gentle > 0
