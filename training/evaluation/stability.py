"""Does the same lesion get the same answer when the picture is mirrored, turned or saved again?"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from training.data import Picture
from training.evaluation.tables import Interval, Predictions, Resampling, classify, share_with_interval
from training.export import OnnxClassifier
from training.metrics import Bools
from training.render import Renderer, Reshape

_RE_ENCODED_QUALITY = 80
_Turn = Image.Transpose


def saved_as_jpeg(rgb: Image.Image, quality: int) -> Image.Image:
    """The picture after it was saved as JPEG and opened again."""
    saved = io.BytesIO()
    rgb.save(saved, "JPEG", quality=quality)
    return Image.open(saved).convert("RGB")


VIEWS: dict[str, Reshape] = {
    "mirrored left to right": lambda rgb: rgb.transpose(_Turn.FLIP_LEFT_RIGHT),
    "mirrored top to bottom": lambda rgb: rgb.transpose(_Turn.FLIP_TOP_BOTTOM),
    "turned 90 degrees": lambda rgb: rgb.transpose(_Turn.ROTATE_90),
    "turned 180 degrees": lambda rgb: rgb.transpose(_Turn.ROTATE_180),
    "turned 270 degrees": lambda rgb: rgb.transpose(_Turn.ROTATE_270),
    f"JPEG quality {_RE_ENCODED_QUALITY}": lambda rgb: saved_as_jpeg(rgb, _RE_ENCODED_QUALITY),
}


def measure_stability(
    classifier: OnnxClassifier,
    pictures: tuple[Picture, ...],
    renderer: Renderer,
    threshold: float,
    resample: Resampling,
) -> dict[str, Any]:
    """Each view of the pictures against the answer to the picture as it is. JSON-ready.

    The picture as it is goes the views' own way, in which squashed copies are given their true shape back first: what
    that resampling changes is not the view's doing. `all views` takes every picture with every view as one case.
    """
    answers = {
        name: Predictions(pictures, classify(classifier, renderer.batches(pictures, name, view)))
        for name, view in VIEWS.items()
    }
    plain = Predictions(pictures, classify(classifier, renderer.batches(pictures, "as it is", lambda rgb: rgb)))
    views = {name: changes([(plain, seen)], threshold, resample) for name, seen in answers.items()}
    together = changes([(plain, seen) for seen in answers.values()], threshold, resample)
    return {"pictures": len(pictures), "views": views | {"all views": together}}


def changes(pairs: Sequence[tuple[Predictions, Predictions]], threshold: float, resample: Resampling) -> dict[str, Any]:
    """Largest change of a probability, and how often diagnosis and malignancy decision stay."""
    pictures = [picture for plain, _ in pairs for picture in plain.pictures]
    change = np.concatenate([np.abs(p.probabilities - s.probabilities).max(axis=1) for p, s in pairs])
    same_first = np.concatenate([p.probabilities.argmax(axis=1) == s.probabilities.argmax(axis=1) for p, s in pairs])
    same_side = np.concatenate([(p.malignancy >= threshold) == (s.malignancy >= threshold) for p, s in pairs])

    def share(hits: Bools) -> Interval:
        return share_with_interval(hits, np.ones(len(hits), bool), pictures, resample)

    median, high = np.percentile(change, [50, 95])
    return {
        "median_largest_change": round(float(median), 5),
        "p95_largest_change": round(float(high), 5),
        "same_first_diagnosis": share(same_first),
        "same_malignancy_decision": share(same_side),
    }
