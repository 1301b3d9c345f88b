"""Probabilities become what they say, and the threshold finds what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from tests.training.builders import picture
from training.calibrate import (
    MALIGNANT,
    Calibration,
    Candidate,
    calibrate,
    choose,
    fit_temperature,
    natural_log_prior,
    threshold_for,
)
from training.config import Decision
from training.data import CLASSES
from training.metrics import Floats, Ints

PRIOR = np.array([0.04, 0.05, 0.1, 0.01, 0.1, 0.69, 0.01])
DECISION = Decision(malignant_sensitivity=0.95, ece_limit=0.05)


def drawn(n: int = 4000, seed: int = 0) -> tuple[Floats, Ints]:
    """Prior-free logits of a well-behaved network, and labels drawn from the posterior they stand for."""
    random = np.random.default_rng(seed)
    evidence = random.normal(0, 2, (n, len(CLASSES)))
    posterior = softmax(evidence + np.log(PRIOR), axis=1)
    labels = np.array([random.choice(len(CLASSES), p=row) for row in posterior])
    return evidence, labels


def test_malignant_classes_are_the_lesion_tables() -> None:
    """Malignancy adds up akiec, bcc and mel."""
    assert [code for code, malignant in zip(CLASSES, MALIGNANT, strict=True) if malignant] == ["akiec", "bcc", "mel"]


def test_temperature_is_recovered() -> None:
    """Logits that were made three times too confident get temperature 3."""
    evidence, labels = drawn()
    temperature, _ = fit_temperature((3 * evidence).astype(np.float32), labels, np.log(PRIOR))
    assert temperature == pytest.approx(3, rel=0.1)


def test_whole_prior_calibrates() -> None:
    """With all of the prior added, prior-free logits give calibrated probabilities on the natural mix."""
    evidence, labels = drawn()
    table = calibrate(evidence.astype(np.float32), labels, np.log(PRIOR).tolist(), DECISION).candidates
    assert table[-1].prior_share == 1
    assert table[-1].expected_calibration_error < 0.02
    assert table[0].balanced_accuracy > table[-1].balanced_accuracy


def candidate(share: float, accuracy: float, error: float) -> Candidate:
    return Candidate(share, 1.0, 1.0, accuracy, error)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param([(0.0, 0.80, 0.20), (0.5, 0.75, 0.02), (1.0, 0.70, 0.01)], 0.5, id="best within the limit"),
        pytest.param([(0.0, 0.752, 0.01), (0.5, 0.75, 0.01), (1.0, 0.70, 0.01)], 0.5, id="near-tie: the larger share"),
        pytest.param([(0.0, 0.80, 0.20), (0.5, 0.75, 0.09), (1.0, 0.70, 0.10)], 0.5, id="none within: best calibrated"),
    ],
)
def test_prior_share_is_chosen_by_the_rule(candidates: list[tuple[float, float, float]], chosen: float) -> None:
    """Best balanced accuracy within the calibration limit, near-ties to the larger share."""
    assert choose([candidate(*values) for values in candidates], 0.05).prior_share == chosen


def test_probabilities_by_hand() -> None:
    """softmax(logits / temperature + share * log prior)."""
    calibration = Calibration(2.0, 0.5, tuple(np.log(PRIOR)))
    logits = np.arange(7, dtype=np.float32)[None, :]
    expected = np.exp(logits / 2) * np.sqrt(PRIOR)
    assert calibration.probabilities(logits) == pytest.approx(expected / expected.sum())
    assert calibration.prior == pytest.approx(dict(zip(CLASSES, PRIOR, strict=True)))


scores_and_truth = st.lists(
    st.tuples(st.integers(1, 999).map(lambda n: n / 1000), st.booleans()), min_size=1, max_size=60
).filter(lambda rows: any(positive for _, positive in rows))


@given(scores_and_truth, st.sampled_from([0.6, 0.9, 0.95]))
def test_threshold_reaches_the_sensitivity_and_no_higher_one_does(
    rows: list[tuple[float, bool]], sensitivity: float
) -> None:
    """Enough positives lie at or above the threshold; above the next score they would not."""
    scores, positive = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    threshold = threshold_for(scores, positive, sensitivity)
    assert (scores[positive] >= threshold).mean() >= sensitivity - 1e-9
    at_or_above = scores[scores >= threshold]
    higher = np.nextafter(at_or_above.min(), 1)
    assert (scores[positive] >= higher).mean() < sensitivity


def test_threshold_lies_halfway() -> None:
    """Between the last positive that is needed and the next lower score, of whatever class."""
    scores = np.array([0.9, 0.8, 0.6, 0.4, 0.2])
    positive = np.array([True, True, False, False, True])
    assert threshold_for(scores, positive, 0.6) == pytest.approx(0.7)


def test_prior_is_of_the_natural_training_part() -> None:
    """Neither other collections nor held-out pictures count."""
    pictures = (
        *(picture(f"n{i}", "nv") for i in range(8)),
        *(picture(f"m{i}", "mel") for i in range(2)),
        picture("held", "mel"),
        picture("other", "bcc", collection="elsewhere"),
    )
    parts = {p.image_id: "train" for p in pictures} | {"held": "test"}
    prior = dict(zip(CLASSES, np.exp(natural_log_prior(pictures, parts, "clinic")), strict=True))
    assert sum(prior.values()) == pytest.approx(1)
    assert prior["nv"] / prior["mel"] == pytest.approx(8.5 / 2.5)
    assert prior["bcc"] == pytest.approx(0.5 / 13.5)
