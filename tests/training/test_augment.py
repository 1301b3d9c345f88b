"""Augmentation changes the camera and the clinic, never the tensor's shape, range or reproducibility."""

from collections.abc import Callable

import pytest
import torch

from training import artefacts
from training.augment import _jpeg, augment
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


def grey(n: int = 3, side: int = 96) -> torch.Tensor:
    return torch.full((n, 3, side, side), 150.0)


@pytest.mark.parametrize("add", [artefacts.hair, artefacts.ink, artefacts.ruler, artefacts.bubbles])
def test_artefacts_lie_on_the_picture(add: Callable[[torch.Tensor, torch.Generator], torch.Tensor]) -> None:
    """Each covers a part of every picture and leaves the rest, keeps the shape, and follows from the generator."""
    first, again, other = (add(grey(), torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert first.shape == grey().shape
    assert torch.isfinite(first).all()
    assert first.min() >= 0
    changed = ((first - grey()).abs() > 1).any(1).float().mean((1, 2))
    assert (changed > 0).all()
    assert (changed < 0.8).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["hair", "ink", "ruler", "bubble", "jpeg"])
def test_each_artefact_has_its_probability(name: str) -> None:
    """At zero none is drawn, at one every picture has it; the result stays within [0, 255]."""
    with_it = augmented(NOTHING.model_copy(update={f"{name}_probability": 1.0}))
    assert ((with_it - augmented(NOTHING)).abs().amax((1, 2, 3)) > 1).all()
    assert with_it.min() >= 0
    assert with_it.max() <= 255


def test_jpeg_keeps_what_the_picture_shows() -> None:
    """Saved and opened again: other pixels, the same picture; a smooth one is hardly changed."""
    ramp = torch.linspace(20, 230, 64).expand(2, 3, 64, 64).clone()
    always = NOTHING.model_copy(update={"jpeg_probability": 1.0})
    saved = _jpeg(ramp.clone(), always, torch.Generator().manual_seed(0))
    assert saved.shape == ramp.shape
    assert not torch.equal(saved, ramp)
    assert (saved - ramp).abs().mean() < 4
