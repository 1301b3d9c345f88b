"""Error among the most certain answers, and calibration, are those of the definitions."""

import numpy as np
import pytest

from model_store.contract.certainty import certainty
from model_store.contract.manifest import Certainty
from tests.training.builders import picture, predictions
from training import metrics
from training.calibrate import MALIGNANT
from training.data import CLASSES
from training.evaluation.decision import shift_prevalence
from training.evaluation.reliability import calibration_report
from training.evaluation.selective import selective_report
from training.evaluation.tables import Predictions, Resampling

RESAMPLING = Resampling(seed=0, resamples=100)
CHOSEN = Certainty(measure="margin", threshold=0.2, coverage=0.8)


def test_selective_risk_by_hand() -> None:
    """Of the two most certain of five answers one is wrong; of all five, two."""
    wrong, sure = np.array([True, False, False, True, False]), np.array([0.9, 0.1, 0.8, 0.2, 0.3])
    found = metrics.selective_risk(wrong, sure, np.ones((1, 5)), np.array([0.2, 0.4, 1.0]))
    assert found[0].tolist() == pytest.approx([1.0, 0.5, 0.4])


def test_most_certain_err_less() -> None:
    """80 % coverage: the same error as counting by hand, below that of all answers."""
    part = predictions(500)
    found = selective_report(part, CHOSEN, RESAMPLING)
    wrong = part.probabilities.argmax(axis=1) != part.labels
    order = np.argsort(-certainty(part.probabilities, "margin"), kind="stable")
    assert found["error_of_most_certain_80_percent"]["value"] == pytest.approx(wrong[order[:400]].mean(), abs=1e-5)
    assert found["error"]["value"] == pytest.approx(wrong.mean(), abs=1e-5)
    assert found["ratio_to_error"]["high"] < 1
    assert found["curve"]["error"]["margin"][-1] == pytest.approx(wrong.mean(), abs=1e-5)


def test_useless_certainty_has_no_gain() -> None:
    """When certainty says nothing about being right, the area under the curve is the error itself."""
    random = np.random.default_rng(0)
    wrong = random.random(5000) < 0.3
    curve = metrics.selective_risk(wrong, random.random(5000), np.ones((1, 5000)), np.linspace(0.1, 1, 10))
    assert curve[0] == pytest.approx(np.full(10, 0.3), abs=0.05)


def test_calibrated_probabilities_have_small_errors() -> None:
    """Labels drawn from the probabilities themselves: both calibration errors are near zero."""
    part = _drawn_from_probabilities()
    found = calibration_report(part, float(MALIGNANT[part.labels].mean()), RESAMPLING)["as_answered"]
    assert found["expected_calibration_error"]["value"] < 0.03
    assert found["malignancy_calibration_error"]["value"] < 0.03


def test_shift_to_the_natural_prevalence_repairs_a_wrong_prior() -> None:
    """Probabilities for twice the malignant odds are off as answered, and right after the shift."""
    part = _drawn_from_probabilities()
    natural = float(MALIGNANT[part.labels].mean())
    reference = 3 * natural / (1 - natural) / (1 + 3 * natural / (1 - natural))
    skewed = Predictions(part.pictures, shift_prevalence(part.probabilities, natural, reference))
    found = calibration_report(skewed, reference, RESAMPLING)
    assert found["as_answered"]["malignancy_calibration_error"]["value"] > 0.08
    assert found["at_natural_prevalence"]["malignancy_calibration_error"]["value"] < 0.03
    better = found["at_natural_prevalence"]["negative_log_likelihood"]["value"]
    assert better < found["as_answered"]["negative_log_likelihood"]["value"]


def test_brier_and_likelihood_by_hand() -> None:
    """A sure right answer costs nothing, a sure wrong one 2 in Brier's score."""
    probabilities, labels = np.eye(7)[[0, 1]], np.array([0, 2])
    once = np.ones((1, 2))
    assert metrics.brier(labels, probabilities, once)[0] == pytest.approx(1.0)
    assert metrics.negative_log_likelihood(labels[:1], probabilities[:1], once[:, :1])[0] == pytest.approx(0.0)


def _drawn_from_probabilities(n: int = 4000) -> Predictions:
    """Each picture's class is drawn from its own probabilities."""
    wide = predictions(n, skill=2.5)
    random = np.random.default_rng(1)
    labels = [int(random.choice(7, p=row)) for row in wide.probabilities]
    return Predictions(tuple(picture(f"p{i}", CLASSES[c]) for i, c in enumerate(labels)), wide.probabilities)
