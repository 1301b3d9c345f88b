"""Figures on pictures that nothing was chosen on, each with a 95 % interval from resampling lesions.

All are computed from the exported graph's probabilities, the ones a caller will get.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training import metrics
from training.calibrate import MALIGNANT
from training.config import Config, ResizeMode
from training.data import CLASSES, Picture
from training.errors import ExportError
from training.export import OnnxClassifier
from training.metrics import Bools, Floats, Ints
from training.render import Renderer, Reshape, contract_of

HEADLINE = (
    "balanced_accuracy", "top2_accuracy", "accuracy", "macro_auroc", "malignant_auroc", "malignant_sensitivity",
    "malignant_specificity", "melanoma_auroc", "expected_calibration_error",
)  # fmt: skip
SMALLEST_GROUP = 20  # pictures; below that a figure says more about chance than about the group
SMALLEST_KIND = 10  # malignant (benign) pictures of a group, for figures that are shares of them
MAX_FIGURE_DIFFERENCE = 0.002  # between the graph's and PyTorch's figures
AGE_EDGES = (0, 30, 50, 70, math.inf)
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)

Figures = dict[str, Floats]
Interval = dict[str, float | None]


@dataclass(frozen=True)
class Predictions:
    """Pictures with what was predicted for them: probabilities float64 [N, classes]."""

    pictures: tuple[Picture, ...]
    probabilities: Floats

    @property
    def labels(self) -> Ints:
        """int64 [N]."""
        return np.array([picture.label for picture in self.pictures], np.int64)

    @property
    def malignancy(self) -> Floats:
        """Probability of a malignant class, [N]."""
        return np.asarray(self.probabilities[:, MALIGNANT].sum(axis=1))

    def of(self, wanted: Callable[[Picture], bool]) -> "Predictions":
        """Those of some pictures."""
        chosen = np.array([wanted(picture) for picture in self.pictures], bool)
        pictures = tuple(p for p, keep in zip(self.pictures, chosen, strict=True) if keep)
        return Predictions(pictures, self.probabilities[chosen])


def evaluate(test: Predictions, config: Config, threshold: float) -> dict[str, Any]:
    """Tables for the natural-mix collection, each collection, all together, and groups of patients."""
    names = [collection.name for collection in config.data.collections]
    collections = {name: test.of(in_collection(name)) for name in names}
    resample = Resampling(config.seed, config.bootstrap_resamples)
    return {
        "interval": f"95 %, {config.bootstrap_resamples} bootstrap resamples of lesions",
        "natural_mix": config.data.natural_mix,
        "malignancy_threshold": threshold,
        "collections": {name: table(part, threshold, resample) for name, part in collections.items() if part.pictures},
        "all": table(test, threshold, resample),
        "groups": {
            by: {group: _group_table(part, threshold, resample) for group, part in _groups(test, key)}
            for by, key in _GROUPINGS.items()
        },
    }


class Resampling:
    """Bootstrap by lesion: pictures of one lesion are drawn together, as they are not independent."""

    def __init__(self, seed: int, resamples: int) -> None:
        self.seed, self.resamples = seed, resamples

    def weights(self, pictures: Sequence[Picture]) -> Floats:
        """How often each picture counts in each resample: float64 [resamples, N]."""
        _, lesion = np.unique([picture.lesion_id for picture in pictures], return_inverse=True)
        lesions = int(lesion.max()) + 1
        draws = np.random.default_rng(self.seed).multinomial(lesions, np.full(lesions, 1 / lesions), self.resamples)
        return draws[:, lesion].astype(np.float64)


def table(part: Predictions, threshold: float, resample: Resampling) -> dict[str, Any]:
    """Every figure of `part` with its interval; classes apart. JSON-ready: what does not exist is None."""
    plain = figures(part, threshold, np.ones((1, len(part.pictures))))
    resampled = figures(part, threshold, resample.weights(part.pictures))
    values = {name: with_interval(plain[name], resampled[name]) for name in plain}
    counts = np.bincount(part.labels, minlength=len(CLASSES))
    return {
        **_sizes(part),
        **{name: values[name] for name in HEADLINE},
        "classes": {
            code: {"pictures": int(counts[index])}
            | {name: values[f"{name}.{code}"] for name in ("sensitivity", "precision", "f1", "auroc")}
            for index, code in enumerate(CLASSES)
        },
        "confusion": confusion(part).tolist(),
    }


def figures(part: Predictions, threshold: float, weights: Floats) -> Figures:
    """All figures for each row of `weights` [R, N]; those of a class are named `figure.class`."""
    labels, probabilities = part.labels, part.probabilities
    predicted = probabilities.argmax(axis=1)
    second = np.argsort(-probabilities, axis=1, kind="stable")[:, 1]
    everyone = np.ones(len(labels), bool)
    found = _class_figures(labels, probabilities, weights)
    return found | {
        "balanced_accuracy": metrics.balanced_accuracy(labels, predicted, len(CLASSES), weights),
        "accuracy": metrics.share(predicted == labels, everyone, weights),
        "top2_accuracy": metrics.share((predicted == labels) | (second == labels), everyone, weights),
        "macro_auroc": metrics.mean_over_existing(np.stack([found[f"auroc.{code}"] for code in CLASSES], axis=-1)),
        "melanoma_auroc": found["auroc.mel"],
        "malignant_auroc": metrics.auroc(MALIGNANT[labels], part.malignancy, weights),
        **_malignant_shares(part, threshold, weights),
        "expected_calibration_error": metrics.expected_calibration_error(labels, probabilities, weights),
    }


def confusion(part: Predictions) -> NDArray[np.int64]:
    """Pictures by true class (rows) and predicted class (columns)."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(counts, (part.labels, part.probabilities.argmax(axis=1)), 1)
    return counts


def with_interval(plain: Floats, resampled: Floats) -> Interval:
    """The figure and the 2.5th and 97.5th percentile of its resamples."""
    existing = resampled[~np.isnan(resampled)]
    low, high = np.percentile(existing, [2.5, 97.5]) if len(existing) else (math.nan, math.nan)
    return interval(float(plain[0]), float(low), float(high))


def interval(value: float, low: float, high: float) -> Interval:
    """{"value", "low", "high"}, rounded; None for what does not exist."""
    numbers = {"value": value, "low": low, "high": high}
    return {name: None if math.isnan(number) else round(number, 5) for name, number in numbers.items()}


def share_with_interval(hits: Bools, among: Bools, pictures: Sequence[Picture], resample: "Resampling") -> Interval:
    """Share of `hits` [N] among the pictures `among` [N]. Of none or of all the bootstrap would be certain whatever
    the number; there the exact interval (Clopper & Pearson 1934) of that many lesions is given.
    """
    found = with_interval(
        metrics.share(hits, among, np.ones((1, len(pictures)))),
        metrics.share(hits, among, resample.weights(pictures)),
    )
    if found["value"] in (0.0, 1.0):
        chance = chance_of_none(len({p.lesion_id for p, counts in zip(pictures, among, strict=True) if counts}))
        found |= {"high": round(chance, 5)} if found["value"] == 0 else {"low": round(1 - chance, 5)}
    return found


def chance_of_none(lesions: int) -> float:
    """The largest share that leaves a 2.5 % chance of seeing none in `lesions`."""
    return float(1 - 0.025 ** (1 / lesions))


def compare_with_network(test: Predictions, network: Predictions, config: Config, threshold: float) -> dict[str, Any]:
    """Headline figures of the graph and of PyTorch on the same pictures. Raises ExportError when they differ."""
    mixes: dict[str, Callable[[Picture], bool]] = {
        config.data.natural_mix: in_collection(config.data.natural_mix),
        "all": lambda _: True,
    }
    compared: dict[str, Any] = {}
    for mix, wanted in mixes.items():
        part, reference = test.of(wanted), network.of(wanted)
        once = np.ones((1, len(part.pictures)))
        graph_figures, torch_figures = figures(part, threshold, once), figures(reference, threshold, once)
        compared[mix] = {
            name: {"graph": _number(graph_figures[name]), "pytorch": _number(torch_figures[name])} for name in HEADLINE
        }
        wrong = [n for n in HEADLINE if abs(graph_figures[n][0] - torch_figures[n][0]) > MAX_FIGURE_DIFFERENCE]
        if wrong:
            raise ExportError(f"the ONNX graph's figures are not the network's on {mix}: {', '.join(wrong)}")
    return compared


def measure_shapes(classifier: OnnxClassifier, pictures: Sequence[Picture], config: Config) -> list[dict[str, Any]]:
    """How a picture becomes square: the same network on the same pictures in three shapes, squared in three ways.

    Shapes are cut from the true proportions: landscape 4:3, portrait 3:4 (turned), square. A square picture comes
    out the same in every way, so it has one row.
    """
    rows = []
    for shape, reshape in _SHAPES.items():
        for mode in RESIZE_MODES if shape != "1:1" else (config.input.resize,):
            contract = contract_of(config.input.model_copy(update={"resize": mode}))
            batches = Renderer(config, contract).batches(pictures, f"{shape} {mode}", reshape)
            part = Predictions(tuple(pictures), classify(classifier, batches))
            found = figures(part, 0.5, np.ones((1, len(pictures))))
            rows.append(
                {"shape": shape, "resize": mode if shape != "1:1" else "any", "pictures": len(pictures)}
                | {name: _number(found[name]) for name in ("balanced_accuracy", "malignant_auroc", "melanoma_auroc")}
            )
    return rows


def classify(classifier: OnnxClassifier, batches: Iterator[NDArray[np.uint8]]) -> Floats:
    """Probabilities float64 [N, classes] of batches uint8 [n, H, W, 3]."""
    return np.concatenate([classifier(batch) for batch in batches]).astype(np.float64)


def _class_figures(labels: Ints, probabilities: Floats, weights: Floats) -> Figures:
    predicted = probabilities.argmax(axis=1)
    found: Figures = {}
    for index, code in enumerate(CLASSES):
        is_class, said_class = labels == index, predicted == index
        found[f"sensitivity.{code}"] = metrics.share(said_class, is_class, weights)
        found[f"precision.{code}"] = metrics.share(is_class, said_class, weights)
        both = weights @ (is_class & said_class).astype(np.float64)
        either = weights @ (is_class.astype(np.float64) + said_class)
        found[f"f1.{code}"] = metrics.ratio(2 * both, np.where(weights @ is_class.astype(np.float64) > 0, either, 0.0))
        found[f"auroc.{code}"] = metrics.auroc(is_class, probabilities[:, index], weights)
    return found


def _malignant_shares(part: Predictions, threshold: float, weights: Floats) -> Figures:
    malignant, flagged = MALIGNANT[part.labels], part.malignancy >= threshold
    return {
        "malignant_sensitivity": metrics.share(flagged, malignant, weights),
        "malignant_specificity": metrics.share(~flagged, ~malignant, weights),
    }


def _group_table(part: Predictions, threshold: float, resample: Resampling) -> dict[str, Any]:
    """Balanced accuracy, malignant AUROC and the malignancy decision in one group.

    Too small a group gets its size only; where too few are malignant (or benign), what is a share of them is None.
    """
    sizes = _sizes(part)
    if sizes["pictures"] < SMALLEST_GROUP:
        return sizes | {"too_few": True}
    labels, predicted = part.labels, part.probabilities.argmax(axis=1)
    malignant, flagged = MALIGNANT[labels], part.malignancy >= threshold
    plain, resampled = np.ones((1, len(labels))), resample.weights(part.pictures)

    def accuracy(weights: Floats) -> Floats:
        return metrics.balanced_accuracy(labels, predicted, len(CLASSES), weights)

    def auroc(weights: Floats) -> Floats:
        return metrics.auroc(malignant, part.malignancy, weights)

    few_malignant, few_benign = malignant.sum() < SMALLEST_KIND, (~malignant).sum() < SMALLEST_KIND
    either_few = few_malignant or few_benign
    return sizes | {
        "balanced_accuracy": with_interval(accuracy(plain), accuracy(resampled)),
        "malignant_auroc": None if either_few else with_interval(auroc(plain), auroc(resampled)),
        "malignant_sensitivity": None
        if few_malignant
        else share_with_interval(flagged, malignant, part.pictures, resample),
        "malignant_specificity": None
        if few_benign
        else share_with_interval(~flagged, ~malignant, part.pictures, resample),
    }


def _sizes(part: Predictions) -> dict[str, int]:
    return {
        "pictures": len(part.pictures),
        "lesions": len({picture.lesion_id for picture in part.pictures}),
        "malignant": int(MALIGNANT[part.labels].sum()),
    }


def in_collection(name: str) -> Callable[[Picture], bool]:
    """For `Predictions.of`: is a picture of this collection?"""
    return lambda picture: picture.collection == name


def _groups(part: Predictions, key: Callable[[Picture], str]) -> Iterator[tuple[str, Predictions]]:
    """Groups by `key`, in the order of their names; pictures without one are left out."""
    for group in sorted({key(picture) for picture in part.pictures} - {""}):
        yield group, part.of(lambda picture, group=group: key(picture) == group)  # type: ignore[misc]


def _age_band(picture: Picture) -> str:
    if picture.age is None:
        return ""
    low, high = next((low, high) for low, high in pairwise(AGE_EDGES) if low <= picture.age < high)
    return f"{low}+" if high == math.inf else f"{low}-{high - 1}"


_GROUPINGS: dict[str, Callable[[Picture], str]] = {
    "age": _age_band,
    "sex": lambda picture: picture.sex,
    "site": lambda picture: picture.localization,
    "skin_tone": lambda picture: picture.skin_tone,
}


def cut(rgb: Image.Image, aspect: float) -> Image.Image:
    """The largest centred part with this width / height."""
    width, height = min(rgb.width, rgb.height * aspect), min(rgb.height, rgb.width / aspect)
    left, upper = (rgb.width - width) / 2, (rgb.height - height) / 2
    return rgb.crop((round(left), round(upper), round(left + width), round(upper + height)))


_SHAPES: dict[str, Reshape] = {
    "4:3": lambda rgb: cut(rgb, 4 / 3),
    "3:4": lambda rgb: cut(rgb, 4 / 3).transpose(Image.Transpose.ROTATE_90),
    "1:1": lambda rgb: cut(rgb, 1.0),
}


def _number(figure: Floats) -> float | None:
    value = float(figure[0])
    return None if math.isnan(value) else round(value, 6)
