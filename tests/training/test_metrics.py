"""Figures agree with scikit-learn and with values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from training import metrics


def ones(n: int) -> metrics.Floats:
    return np.ones((1, n))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=40))
def test_auroc_is_scikit_learns(rows: list[tuple[bool, int, int]]) -> None:
    """Ties and weights included, the fast AUROC is scikit-learn's; where that has none, it is NaN."""
    positive, scores, counts = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics.auroc(positive, scores.astype(float), counts[None, :].astype(float))[0]
    if len(set(positive[counts > 0].tolist())) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores, sample_weight=counts))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_balanced_accuracy_is_scikit_learns(rows: list[tuple[int, int]]) -> None:
    """Classes that do not occur are left out of the mean."""
    labels, predicted = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics.balanced_accuracy(labels, predicted, 7, ones(len(labels)))[0]
    assert found == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_calibration_error_by_hand() -> None:
    """Two pictures at 0.9 of which one is right, two at 0.5 that are right: (2 * 0.4 + 2 * 0.5) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [0.5, 0.5]])
    labels = np.array([0, 1, 0, 0])
    assert metrics.expected_calibration_error(labels, probabilities, ones(4))[0] == pytest.approx(0.45)


def test_certain_and_right_has_no_calibration_error() -> None:
    """A probability of exactly 1 falls into the last bin."""
    assert metrics.expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]]), ones(1))[0] == 0


def test_weight_counts_like_repetition() -> None:
    """A picture of weight 3 is three pictures: what makes a row of weights a bootstrap resample."""
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 3, 20), random.dirichlet(np.ones(3), 20)
    counts = random.integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), counts)
    weighted = metrics.expected_calibration_error(labels, probabilities, counts[None, :].astype(float))
    plain = metrics.expected_calibration_error(labels[repeated], probabilities[repeated], ones(len(repeated)))
    assert weighted[0] == pytest.approx(plain[0])


def test_reliability_bins_hold_all_pictures() -> None:
    """Every picture stands in one bin; empty bins have neither confidence nor accuracy."""
    probabilities = np.array([[0.95, 0.05], [0.97, 0.03], [0.6, 0.4]])
    confidence, accuracy, counts = metrics.reliability(probabilities.max(axis=1), np.array([1.0, 0.0, 1.0]))
    assert counts.sum() == 3
    assert confidence[14] == pytest.approx(0.96)
    assert accuracy[14] == 0.5
    assert np.isnan(accuracy[0])


def test_share_of_nothing_is_not_a_number() -> None:
    """A resample without any picture of a group has no figure, instead of a wrong one."""
    nothing = np.zeros(3, bool)
    assert np.isnan(metrics.share(~nothing, nothing, ones(3))[0])
