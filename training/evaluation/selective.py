"""Answering only what is certain: how the share of wrong answers falls with the share of pictures that are answered."""

from typing import Any, get_args

import numpy as np

from model_store.contract.certainty import CertaintyMeasure, certainty
from model_store.contract.manifest import Certainty
from training import metrics
from training.evaluation.tables import Predictions, Resampling, share_with_interval, with_interval
from training.metrics import Floats

COVERAGES = np.round(np.arange(1, 101) / 100, 2)
CERTAIN_SHARE = 0.8  # of the pictures: the error among these is compared with that of all
MEASURES: tuple[CertaintyMeasure, ...] = get_args(CertaintyMeasure)


def selective_report(part: Predictions, chosen: Certainty, resample: Resampling) -> dict[str, Any]:
    """Risk-coverage curve and error figures of the first diagnosis, by the `chosen` measure. JSON-ready.

    AURC, the area under the curve, is given for every measure: the mean error over all coverages (Geifman 2017).
    """
    wrong = part.probabilities.argmax(axis=1) != part.labels
    sure = certainty(part.probabilities, chosen.measure, chosen.class_weights)
    once, drawn = np.ones((1, len(wrong))), resample.weights(part.pictures)
    steps = np.array([CERTAIN_SHARE, 1.0])
    plain, resampled = (metrics.selective_risk(wrong, sure, weights, steps) for weights in (once, drawn))
    kept, everyone = sure >= chosen.threshold, np.ones(len(wrong), bool)
    return {
        "measure": chosen.measure,
        "threshold": chosen.threshold,
        "coverage_at_threshold": share_with_interval(kept, everyone, part.pictures, resample),
        "error_at_threshold": share_with_interval(wrong, kept, part.pictures, resample),
        "error": with_interval(plain[:, 1], resampled[:, 1]),
        "error_of_most_certain_80_percent": with_interval(plain[:, 0], resampled[:, 0]),
        "ratio_to_error": with_interval(
            metrics.ratio(plain[:, 0], plain[:, 1]), metrics.ratio(resampled[:, 0], resampled[:, 1])
        ),
        "area_under_risk_coverage": {m: round(float(_curve(part, m, chosen).mean()), 5) for m in MEASURES},
        "curve": {
            "coverage": COVERAGES.tolist(),
            "error": {m: [round(float(e), 5) for e in _curve(part, m, chosen)] for m in MEASURES},
        },
    }


def _curve(part: Predictions, measure: CertaintyMeasure, chosen: Certainty) -> Floats:
    """Share of wrong first diagnoses at each of `COVERAGES`, by another measure with the weights of the chosen one."""
    wrong = part.probabilities.argmax(axis=1) != part.labels
    once = np.ones((1, len(wrong)))
    sure = certainty(part.probabilities, measure, chosen.class_weights)
    return np.asarray(metrics.selective_risk(wrong, sure, once, COVERAGES)[0])
