"""How far a picture may be from a good one before the answers suffer, and whether the gates notice.

Every change is made to the picture as it arrives, before it is resized; hair, ink and the like are drawn at the size
of the network's input, as in training. Changes are drawn from the picture's own pixels as seed: the same everywhere.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from training import artefacts, metrics
from training.calibrate import MALIGNANT
from training.data import CLASSES, Picture
from training.evaluation.decision import Rules, answers_to
from training.evaluation.stability import saved_as_jpeg
from training.evaluation.tables import Figures, Resampling, cut, with_interval
from training.export import OnnxClassifier
from training.metrics import Floats
from training.render import Renderer, Reshape

_Draw = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Change:
    """One way in which pictures get worse, and how far it is taken; `unchanged` is the level of the picture itself."""

    name: str
    unit: str
    levels: tuple[float, ...]
    unchanged: float
    make: Callable[[Image.Image, float, int], Image.Image]  # picture, level, side of the network's input in pixels

    def at(self, level: float, side: int) -> Reshape:
        """The change at one level, for the renderer."""
        return lambda rgb: self.make(rgb, level, side)


def measure_robustness(
    classifier: OnnxClassifier,
    pictures: Sequence[Picture],
    renderer: Renderer,
    rules: Rules,
    resample: Resampling,
    per_class: int,
) -> dict[str, Any]:
    """Balanced accuracy, malignant AUROC and share refused at every level of every change. JSON-ready.

    At most `per_class` pictures of a class are looked at; each stands for as many as its class has.
    """
    chosen = _some_of_each_class(pictures, per_class, resample.seed)
    sample = _Sample(chosen, _stands_for(chosen, pictures), resample)
    unchanged = _level(classifier, sample, renderer, rules, None)
    curves = {}
    for change in CHANGES:
        found = {change.unchanged: unchanged}
        for level in change.levels:
            found[level] = _level(classifier, sample, renderer, rules, change.at(level, renderer.contract.width))
        rows = [{"level": level} | found[level] for level in sorted(found)]
        curves[change.name] = {"unit": change.unit, "unchanged": change.unchanged, "levels": rows}
    return {"pictures": len(chosen), "of": len(pictures), "curves": curves}


@dataclass(frozen=True)
class _Sample:
    """Pictures, for how many each stands [N], and how they are resampled."""

    pictures: tuple[Picture, ...]
    stands_for: Floats
    resample: Resampling


def _level(
    classifier: OnnxClassifier,
    sample: _Sample,
    renderer: Renderer,
    rules: Rules,
    change: Reshape | None,
) -> dict[str, Any]:
    batches = renderer.batches(sample.pictures, None, change)
    answers = answers_to(classifier, sample.pictures, batches, rules.quality)
    part, unfit = answers.predictions, answers.poor | (answers.scores < rules.in_distribution.refuse_below)

    def figures(weights: Floats) -> Figures:
        labels, predicted = part.labels, part.probabilities.argmax(axis=1)
        return {
            "balanced_accuracy": metrics.balanced_accuracy(labels, predicted, len(CLASSES), weights),
            "malignant_auroc": metrics.auroc(MALIGNANT[labels], part.malignancy, weights),
            "malignant_sensitivity": metrics.share(part.malignancy >= rules.threshold, MALIGNANT[labels], weights),
            "refused": metrics.share(unfit, np.ones(len(labels), bool), weights),
        }

    plain = figures(sample.stands_for[None])
    resampled = figures(sample.resample.weights(sample.pictures) * sample.stands_for)
    return {name: with_interval(plain[name], resampled[name]) for name in plain}


def _some_of_each_class(pictures: Sequence[Picture], per_class: int, seed: int) -> tuple[Picture, ...]:
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in range(len(CLASSES)):
        ours = [index for index, picture in enumerate(pictures) if picture.label == label]
        chosen += random.permutation(ours)[:per_class].astype(int).tolist()
    return tuple(pictures[index] for index in sorted(chosen))


def _stands_for(chosen: Sequence[Picture], pictures: Sequence[Picture]) -> Floats:
    """How many of `pictures` each of the `chosen` stands for, so that the class mix stays what it was."""
    all_counts, chosen_counts = (
        np.bincount([p.label for p in of], minlength=len(CLASSES)) for of in (pictures, chosen)
    )
    return np.array([all_counts[p.label] / chosen_counts[p.label] for p in chosen])


def _blurred(rgb: Image.Image, sigma: float, side: int) -> Image.Image:
    return rgb.filter(ImageFilter.GaussianBlur(sigma * min(rgb.size) / side))


def _warmed(rgb: Image.Image, factor: float, _: int) -> Image.Image:
    """More red and less blue (above 1), or the other way round: another lamp or white balance."""
    pixels = np.asarray(rgb, np.float32) * np.array([factor, 1.0, 1 / factor], np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _turned(rgb: Image.Image, degrees: float, _: int) -> Image.Image:
    """Turned about the centre in the same frame; what comes in from outside mirrors the picture at its edge."""
    width, height = rgb.size
    margin = int(np.ceil((np.hypot(width, height) - min(width, height)) / 2)) + 1
    turned = _mirrored_at_edges(rgb, margin, margin).rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + width, margin + height))


def _zoomed(rgb: Image.Image, factor: float, _: int) -> Image.Image:
    """The lesion `factor` times as large in the frame: the middle of the picture, or more than it at its edges."""
    width, height = rgb.size
    across, down = (round(abs(1 / factor - 1) * side / 2) for side in (width, height))
    if factor < 1:
        return _mirrored_at_edges(rgb, across, down)
    return rgb.crop((across, down, width - across, height - down))


def _mirrored_at_edges(rgb: Image.Image, across: int, down: int) -> Image.Image:
    return Image.fromarray(np.pad(np.asarray(rgb), ((down, down), (across, across), (0, 0)), mode="symmetric"))


def _drawn_on(draw: _Draw) -> Callable[[Image.Image, float, int], Image.Image]:
    """Draws `level` layers on the picture, squashed to the network's input."""

    def make(rgb: Image.Image, level: float, side: int) -> Image.Image:
        squashed = rgb.resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.asarray(squashed)
        random = torch.Generator().manual_seed(zlib.crc32(pixels.tobytes()))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
        for _ in range(int(level)):
            image = draw(image, random)
        return Image.fromarray(image[0].clamp(0, 255).permute(1, 2, 0).round().to(torch.uint8).numpy())

    return make


CHANGES = (
    Change("blur", "Gaussian sigma, pixels of the input", (1, 2, 3, 5), 0, _blurred),
    Change("brightness", "factor", (0.3, 0.5, 0.7, 1.3, 1.6), 1, lambda p, v, _: ImageEnhance.Brightness(p).enhance(v)),
    Change("contrast", "factor", (0.3, 0.6, 1.5, 2), 1, lambda p, v, _: ImageEnhance.Contrast(p).enhance(v)),
    Change("colour", "red times, blue divided by", (0.75, 0.88, 1.14, 1.33), 1, _warmed),
    Change("JPEG", "quality", (10, 20, 40, 80), 100, lambda p, v, _: saved_as_jpeg(p, int(v))),
    Change("rotation", "degrees", (15, 45, 90, 135, 180), 0, _turned),
    Change("scale", "factor", (0.5, 0.7, 1.4, 2), 1, _zoomed),
    Change("aspect", "width / height, cut", (0.56, 0.75, 1, 1.78), 1.33, lambda p, v, _: cut(p, v)),
    Change("hair", "layers", (1, 2, 3), 0, _drawn_on(artefacts.hair)),
    Change("ink", "layers", (1, 2, 3), 0, _drawn_on(artefacts.ink)),
    Change("ruler", "rulers", (1, 2), 0, _drawn_on(artefacts.ruler)),
    Change("bubbles", "layers", (1, 3), 0, _drawn_on(artefacts.bubbles)),
)
