"""reference.json: what the training data look like to the service, for alarms when what comes in drifts away from it.

Only statistics of many pictures, none of any one. Every list of numbers is rounded to six digits.

    {
      "format": 1,
      "training": {                     pictures of the training part: how pictures look
        "pictures": N,
        "quantiles": [0, 0.01, ...],    the quantiles that are given of every measure
        "quality": {measure: [...]},    as `model_store.contract.quality.measure` gives them, in the manifest's units
        "embedding": {                  of the graph's `embedding`
          "mean": [64],
          "covariance": [64 * 65 / 2],  lower triangle, row by row: (0,0), (1,0), (1,1), (2,0), ...
          "squared_length": [...]       quantiles of the squared length
        }
      },
      "unseen": {                       pictures of the natural mix that the network was not trained on: how it answers
        "pictures": N,
        "edges": [0, 0.001, ..., 1],    of every histogram; a value on an edge counts upwards
        "histograms": {                 shares of the pictures, one less than edges
          "probability": {code: [...]}, "malignancy": [...], "certainty": [...], "in_distribution": [...]
        },
        "certainty_measure": "margin",
        "predicted_class_shares": {code: share},
        "quality": {measure: [...]}, "embedding": {...}    as above, of these pictures
      }
    }

Answers to training pictures are more certain than those to new ones, so score distributions come from unseen ones.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.contract.certainty import certainty
from model_store.contract.manifest import Certainty
from model_store.contract.quality import PictureQuality
from training.calibrate import MALIGNANT
from training.data import CLASSES
from training.export import EMBEDDING, IN_DISTRIBUTION, PROBABILITIES
from training.metrics import Floats

FORMAT = 1
QUANTILES = (0.0, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.99, 1.0)
# Narrow where probabilities crowd: most classes are ruled out, many answers are sure.
EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0)
_MEASURED = ("sharpness", "brightness", "dark_share", "bright_share", "contrast")  # size is the copies', not a camera's

Outputs = dict[str, NDArray[np.float32]]


def reference_statistics(
    training: tuple[Sequence[PictureQuality], Outputs],
    unseen: tuple[Sequence[PictureQuality], Outputs],
    rule: Certainty,
) -> dict[str, Any]:
    """The content of reference.json, from each part's picture qualities [N] and the fp32 graph's outputs [N, ...]."""
    return {
        "format": FORMAT,
        "training": {"quantiles": list(QUANTILES)} | _pictures(*training),
        "unseen": _pictures(*unseen) | _answers(unseen[1], rule),
    }


def covariance_of(lower_triangle: Sequence[float]) -> Floats:
    """The symmetric matrix [n, n] that `embedding.covariance` holds."""
    n = int((np.sqrt(8 * len(lower_triangle) + 1) - 1) / 2)
    matrix = np.zeros((n, n))
    matrix[np.tril_indices(n)] = lower_triangle
    return matrix + np.tril(matrix, -1).T


def _pictures(qualities: Sequence[PictureQuality], outputs: Outputs) -> dict[str, Any]:
    embedding = outputs[EMBEDDING].astype(np.float64)
    rows = [asdict(quality) for quality in qualities]
    return {
        "pictures": len(rows),
        "quality": {name: _quantiles(np.array([row[name] for row in rows])) for name in _MEASURED},
        "embedding": {
            "mean": _rounded(embedding.mean(axis=0)),
            "covariance": _rounded(np.cov(embedding, rowvar=False)[np.tril_indices(embedding.shape[1])]),
            "squared_length": _quantiles((embedding**2).sum(axis=1)),
        },
    }


def _answers(outputs: Outputs, rule: Certainty) -> dict[str, Any]:
    probabilities = outputs[PROBABILITIES].astype(np.float64)
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=len(CLASSES)) / len(probabilities)
    return {
        "edges": list(EDGES),
        "histograms": {
            "probability": {code: _histogram(probabilities[:, index]) for index, code in enumerate(CLASSES)},
            "malignancy": _histogram(probabilities[:, MALIGNANT].sum(axis=1)),
            "certainty": _histogram(certainty(probabilities, rule.measure, rule.class_weights)),
            "in_distribution": _histogram(outputs[IN_DISTRIBUTION]),
        },
        "certainty_measure": rule.measure,
        "predicted_class_shares": dict(zip(CLASSES, _rounded(predicted), strict=True)),
    }


def _histogram(values: NDArray[np.floating]) -> list[float]:
    counts, _ = np.histogram(np.clip(values, 0, 1), EDGES)  # seven float32 probabilities can add up to 1.0000001
    return _rounded(counts / len(values))


def _quantiles(values: NDArray[np.floating]) -> list[float]:
    return _rounded(np.quantile(values, QUANTILES))


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
