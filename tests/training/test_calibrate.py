"""Probabilities become what they say, and the threshold finds what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from model_store.contract.quality import measure, problems
from tests.training.builders import picture
from training.calibrate import (
    MALIGNANT,
    Calibration,
    Candidate,
    at_prevalence,
    calibrate,
    choose,
    choose_certainty,
    choose_gate,
    choose_quality,
    fit_temperature,
    natural_log_prior,
    reference_prevalence,
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
    untempered = Calibration(1.0, 1.0, 1.0, tuple(np.log(PRIOR)))
    temperature, _ = fit_temperature((3 * evidence).astype(np.float32), labels, untempered)
    assert temperature == pytest.approx(3, rel=0.1)


def test_whole_prior_calibrates() -> None:
    """With all of the prior added, prior-free logits give calibrated probabilities on the natural mix."""
    evidence, labels = drawn()
    table = calibrate(evidence.astype(np.float32), labels, np.log(PRIOR).tolist(), DECISION).candidates
    none, whole = (next(c for c in table if (c.prior_share, c.prior_weight) == (share, 1)) for share in (0, 1))
    assert whole.expected_calibration_error < 0.02
    assert none.balanced_accuracy > whole.balanced_accuracy


def test_a_mixture_lets_frequency_speak_for_the_second_diagnosis() -> None:
    """A tenth of the natural mix leaves the balanced accuracy nearly as it is and finds more in the first two."""
    evidence, labels = drawn()

    def found(weight: float) -> tuple[float, float]:
        ranked = np.argsort(-Calibration(1.0, 2.0, weight, tuple(np.log(PRIOR))).probabilities(evidence))
        first = np.mean([(ranked[labels == label, 0] == label).mean() for label in range(7)])
        return float(first), float((ranked[:, :2] == labels[:, None]).any(axis=1).mean())

    (first, two), (first_mixed, two_mixed) = found(0.0), found(0.1)
    assert first - first_mixed < 0.02
    assert two_mixed - two > 0.02


def candidate(share: float, loss: float, accuracy: float, error: float, top2: float = 0.95) -> Candidate:
    return Candidate(share, 1.0, 1.0, loss, accuracy, error, top2)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param(
            [(0.0, 0.3, 0.80, 0.20), (0.5, 0.2, 0.75, 0.02), (1.0, 0.1, 0.70, 0.01)], 0.5, id="best within the limit"
        ),
        pytest.param(
            [(0.0, 0.3, 0.752, 0.01), (0.5, 0.2, 0.75, 0.01), (1.0, 0.1, 0.70, 0.01)], 0.5, id="near-tie: likelihood"
        ),
        pytest.param(
            [(0.0, 0.3, 0.80, 0.20), (0.5, 0.2, 0.75, 0.09), (1.0, 0.1, 0.70, 0.10)], 0.5, id="none: best calibrated"
        ),
        pytest.param(
            [(0.0, 0.3, 0.72, 0.01), (0.5, 0.2, 0.79, 0.052), (1.0, 0.1, 0.70, 0.05)], 0.5, id="a hair beyond: in"
        ),
        pytest.param([(0.0, 0.3, 0.80, 0.051), (0.5, 0.2, 0.80, 0.052)], 0.0, id="near-tie that misses by more"),
        pytest.param([(0.0, 0.3, 0.80, 0.01, 0.92), (0.5, 0.2, 0.78, 0.01, 0.94)], 0.5, id="too few of two right"),
        pytest.param([(0.0, 0.3, 0.80, 0.01, 0.935), (0.5, 0.2, 0.78, 0.01, 0.99)], 0.0, id="too few by a hair"),
    ],
)
def test_the_prior_is_chosen_by_the_rule(candidates: list[tuple[float, ...]], chosen: float) -> None:
    """Best balanced accuracy, less twice what either limit is missed by; near-ties to less loss."""
    limits = DECISION.model_copy(update={"top2_limit": 0.94})
    assert choose([candidate(*values) for values in candidates], limits).prior_share == chosen


def test_the_table_counts_a_diagnosis_in_second_place() -> None:
    """Top-2 accuracy by hand: right first, right second, wrong."""
    logits = np.array([[3, 2, 1, 0, 0, 0, 0]] * 3, np.float32)
    table = calibrate(logits, np.array([0, 1, 2]), np.log(np.full(7, 1 / 7)).tolist(), DECISION).candidates
    assert [c.top2_accuracy for c in table] == pytest.approx([2 / 3] * len(table))


def test_probabilities_by_hand() -> None:
    """A quarter of softmax(logits / temperature + share * log prior), the rest without the prior."""
    calibration = Calibration(2.0, 0.5, 0.25, tuple(np.log(PRIOR)))
    logits = np.arange(7, dtype=np.float32)[None, :]
    plain, natural = np.exp(logits / 2), np.exp(logits / 2) * np.sqrt(PRIOR)
    expected = 0.75 * plain / plain.sum() + 0.25 * natural / natural.sum()
    assert calibration.probabilities(logits) == pytest.approx(expected)
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


def test_reference_prevalence_makes_the_shifted_mean_what_was_observed() -> None:
    """Probabilities of a network that assumes 40 % malignant, on pictures of which 15 % are."""
    random = np.random.default_rng(4)
    malignant = random.random(20000) < 0.15
    evidence = random.normal(np.where(malignant, 1.0, -1.0), 1.0)  # log-likelihood ratio is 2 * evidence
    malignancy = 1 / (1 + np.exp(-(2 * evidence + np.log(0.4 / 0.6))))
    found = reference_prevalence(malignancy, float(malignant.mean()))
    assert found == pytest.approx(0.4, abs=0.03)
    shifted = at_prevalence(malignancy, found, float(malignant.mean()))
    assert shifted.mean() == pytest.approx(malignant.mean(), abs=1e-6)


def test_certainty_measure_is_the_one_that_sorts_errors_best() -> None:
    """Answers with a narrow lead are wrong here, however probable: the margin must win, and leave the asked share."""
    random = np.random.default_rng(5)
    probabilities, labels = [], []
    for number in range(400):
        narrow = number % 4 == 0
        first, second = (0.49, 0.48) if narrow else (0.45, 0.1)
        rest = (1 - first - second) / 5
        probabilities.append([first, second, *[rest] * 5])
        labels.append(int(narrow and random.random() < 0.5))
    found = choose_certainty(np.array(probabilities), np.array(labels, np.int64), (1.0,) * 7, 0.75)
    assert found.measure == "margin"
    assert found.coverage == pytest.approx(0.75)


def test_certainty_knows_that_rare_diagnoses_are_often_wrong() -> None:
    """Right nine times in ten where common, one in ten where rare, with the same probability: the weights must win."""
    random = np.random.default_rng(5)
    probabilities, labels = [], []
    for number in range(400):
        first, other = (5, 3) if number % 2 else (3, 5)  # nv is common, df rare
        row = np.full(7, 0.02)
        row[first], row[other] = 0.6 + 0.05 * random.random(), 0.25
        probabilities.append(row / row.sum())
        labels.append(first if random.random() < (0.9 if first == 5 else 0.1) else other)
    weights = Calibration(1.0, 0.0, 1.0, tuple(np.log([0.1, 0.1, 0.1, 0.02, 0.1, 0.5, 0.08]))).certainty_weights
    found = choose_certainty(np.array(probabilities), np.array(labels, np.int64), weights, 0.5)
    assert found.measure == "weighted_probability"
    assert found.class_weights == pytest.approx(np.sqrt([0.1, 0.1, 0.1, 0.02, 0.1, 0.5, 0.08]))


def test_gate_limits_keep_the_promise_in_every_collection() -> None:
    """A clinic whose pictures score low must not be refused more often than was asked."""
    random = np.random.default_rng(6)
    scores = {"familiar": random.beta(9, 1, 1000), "other camera": random.beta(4, 2, 1000)}
    limits = choose_gate(scores, refused_share=0.01, warned_share=0.05)
    for of in scores.values():
        assert (of < limits.refuse_below).mean() <= 0.011
        assert (of < limits.warn_below).mean() <= 0.051
    assert limits.refuse_below < limits.warn_below


def test_quality_limits_refuse_few_of_what_they_were_chosen_on() -> None:
    """And clearly poor pictures all."""
    random = np.random.default_rng(7)
    images = (random.normal(150, 30, (200, 1, 1, 3)) + random.normal(0, 25, (200, 64, 64, 3))).clip(0, 255)
    measured = [measure(image.astype(np.uint8), 600, 450) for image in images]
    limits = choose_quality(measured, refused_share=0.01, min_side_pixels=96)
    assert sum(bool(problems(quality, limits)) for quality in measured) <= 12
    black, flat = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 150, np.uint8)
    assert "too_dark" in problems(measure(black, 600, 450), limits)
    assert {"uniform", "blurred"} <= set(problems(measure(flat, 600, 450), limits))
    assert problems(measure(images[0].astype(np.uint8), 600, 80), limits)[0] == "too_small"
