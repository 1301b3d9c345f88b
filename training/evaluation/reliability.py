"""Can a probability be taken at its word: that of the most probable class, and that of malignancy?"""

from typing import Any

import numpy as np

from training import metrics
from training.calibrate import MALIGNANT
from training.evaluation.decision import shift_prevalence
from training.evaluation.tables import Figures, Interval, Predictions, Resampling, with_interval
from training.metrics import Floats


def calibration_report(part: Predictions, reference_prevalence: float, resample: Resampling) -> dict[str, Any]:
    """Calibration of the answers as they are, and shifted to the malignant share that `part` really has. JSON-ready.

    The shift is what the service does with a site's prevalence; `reference_prevalence` is where it starts from.
    """
    natural = float(MALIGNANT[part.labels].mean())
    found: dict[str, Any] = {"reference_prevalence": reference_prevalence, "natural_prevalence": round(natural, 5)}
    found["as_answered"] = _table(part, resample)
    if 0 < natural < 1:
        shifted = shift_prevalence(part.probabilities, reference_prevalence, natural)
        found["at_natural_prevalence"] = _table(Predictions(part.pictures, shifted), resample)
    return found


def _table(part: Predictions, resample: Resampling) -> dict[str, Interval]:
    plain = _figures(part, np.ones((1, len(part.pictures))))
    resampled = _figures(part, resample.weights(part.pictures))
    return {name: with_interval(plain[name], resampled[name]) for name in plain}


def _figures(part: Predictions, weights: Floats) -> Figures:
    labels, malignant = part.labels, MALIGNANT[part.labels]
    return {
        "expected_calibration_error": metrics.expected_calibration_error(labels, part.probabilities, weights),
        "malignancy_calibration_error": metrics.calibration_error(part.malignancy, malignant, weights),
        "mean_malignancy": metrics.mean(part.malignancy, weights),
        "brier": metrics.brier(labels, part.probabilities, weights),
        "malignancy_brier": metrics.mean((part.malignancy - malignant) ** 2, weights),
        "negative_log_likelihood": metrics.negative_log_likelihood(labels, part.probabilities, weights),
    }
