"""Do the gates keep out what the network cannot judge, and let in what it can? By kind of picture and group."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.contract.manifest import InDistribution
from model_store.contract.preprocessing import Preprocessing, to_input
from model_store.contract.quality import QualityLimits
from training import metrics
from training.data import Picture
from training.evaluation.decision import Answers, poor_quality
from training.evaluation.tables import (
    SMALLEST_GROUP,
    Interval,
    Resampling,
    interval,
    share_with_interval,
    with_interval,
)
from training.export import IN_DISTRIBUTION, OnnxClassifier
from training.metrics import Bools, Floats
from training.outliers import Outlier
from training.render import in_batches

_GROUPINGS: dict[str, Callable[[Picture], str]] = {
    "collection": lambda picture: picture.collection,
    "class": lambda picture: picture.dx,
    "skin_tone": lambda picture: picture.skin_tone,
}


@dataclass(frozen=True)
class Outside:
    """What the gates say to pictures that are no lesion of the seven classes: scores [n], is the quality poor [n]."""

    scores: Floats
    poor: Bools


def judge_outliers(
    classifier: OnnxClassifier, found: Iterable[Outlier], contract: Preprocessing, limits: QualityLimits
) -> dict[str, Outside]:
    """What the gates say to each kind of the outliers of the test half; no gate was fitted on these."""
    images: dict[str, list[NDArray[np.uint8]]] = defaultdict(list)
    for outlier in found:
        if outlier.half == "test":
            images[outlier.kind].append(to_input(outlier.open(), contract))
    return {kind: _judged(classifier, of_kind, limits) for kind, of_kind in images.items()}


def _judged(classifier: OnnxClassifier, images: Sequence[NDArray[np.uint8]], limits: QualityLimits) -> Outside:
    batches = list(in_batches(np.stack(images)))
    scores = np.concatenate([classifier.outputs(batch)[IN_DISTRIBUTION] for batch in batches]).astype(np.float64)
    return Outside(scores, np.concatenate([poor_quality(batch, limits) for batch in batches]))


def gate_report(
    lesions: Answers, outliers: Mapping[str, Outside], limits: InDistribution, resample: Resampling
) -> dict[str, Any]:
    """What is refused among the test lesions, and among each kind of outlier. JSON-ready."""
    return {
        "limits": limits.model_dump(),
        "lesions": _lesions(lesions, limits, resample),
        "groups": {by: _by_group(lesions, key, limits, resample) for by, key in _GROUPINGS.items()},
        "outliers": {kind: _outliers(lesions, outside, limits, resample) for kind, outside in outliers.items()},
    }


def _lesions(part: Answers, limits: InDistribution, resample: Resampling) -> dict[str, Any]:
    pictures, everyone = part.predictions.pictures, np.ones(len(part.scores), bool)

    def share(hits: Bools) -> Interval:
        return share_with_interval(hits, everyone, pictures, resample)

    refused = part.scores < limits.refuse_below
    return {
        "pictures": len(pictures),
        "refused_as_no_lesion": share(refused),
        "refused_for_quality": share(part.poor),
        "refused": share(refused | part.poor),
        "unfamiliar": share(~refused & (part.scores < limits.warn_below)),
    }


def _by_group(
    lesions: Answers, key: Callable[[Picture], str], limits: InDistribution, resample: Resampling
) -> dict[str, Any]:
    """The lesions of each group; a gate that refuses one kind of patient more often must show."""
    found: dict[str, Any] = {}
    keys = np.array([key(picture) for picture in lesions.predictions.pictures])
    for group in sorted(set(keys.tolist()) - {""}):
        part = lesions.of(keys == group)
        few = len(part.scores) < SMALLEST_GROUP
        found[group] = {"pictures": len(part.scores), "too_few": True} if few else _lesions(part, limits, resample)
    return found


def _outliers(lesions: Answers, outside: Outside, limits: InDistribution, resample: Resampling) -> dict[str, Any]:
    """Lesions are resampled by lesion, outliers by picture, each on its own."""
    scores, poor = outside.scores, outside.poor
    both = np.concatenate([lesions.scores, scores])
    is_lesion = np.arange(len(both)) < len(lesions.scores)
    drawn = np.random.default_rng(resample.seed).multinomial(
        len(scores), np.full(len(scores), 1 / len(scores)), resample.resamples
    )
    weights = np.concatenate([resample.weights(lesions.predictions.pictures), drawn], axis=1)
    once, refused = np.ones((1, len(both))), scores < limits.refuse_below
    return {
        "pictures": len(scores),
        "auroc": with_interval(metrics.auroc(is_lesion, both, once), metrics.auroc(is_lesion, both, weights)),
        "refused_as_no_lesion": _share(refused),
        "refused": _share(refused | poor),
        "refused_or_unfamiliar": _share((scores < limits.warn_below) | poor),
    }


def _share(hits: Bools) -> Interval:
    """Wilson's interval: these pictures are independent."""
    n, share, z = len(hits), float(hits.mean()), 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))
