"""The decision follows the service's rules in their order, and its worth is computed right."""

from types import SimpleNamespace

import numpy as np
import pytest

from model_store.contract.quality import QualityLimits
from service import interpret
from tests.training.builders import RULES, picture, predictions
from training.calibrate import MALIGNANT
from training.data import CLASSES
from training.evaluation.decision import Answers, decide, decision_report, poor_quality, shift_prevalence
from training.evaluation.tables import Predictions, Resampling

RESAMPLING = Resampling(seed=0, resamples=100)


def one(malignancy: float, first: float, score: float = 1.0, poor: bool = False) -> Answers:
    """One melanoma with this malignancy probability; the rest is nevus (`first`) and keratosis."""
    probabilities = np.zeros((1, 7))
    probabilities[0, CLASSES.index("mel")] = malignancy
    probabilities[0, CLASSES.index("nv")] = first
    probabilities[0, CLASSES.index("bkl")] = 1 - malignancy - first
    return Answers(Predictions((picture("a", "mel"),), probabilities), np.array([score]), np.array([poor]))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (one(0.1, 0.9), "low_risk"),
        (one(0.3, 0.7), "refer"),
        (one(0.9, 0.1, score=0.1), "abstain"),  # no lesion: not even a certain malignancy is told
        (one(0.9, 0.1, poor=True), "abstain"),
        (one(0.3, 0.7, score=0.4), "refer"),  # unfamiliar, yet suspicious: refer
        (one(0.1, 0.9, score=0.4), "abstain"),
        (one(0.1, 0.45), "abstain"),  # nevus or keratosis: uncertain
        (one(0.3, 0.35), "refer"),
    ],
)
def test_rules_in_order(answers: Answers, expected: str) -> None:
    """No lesion, poor quality, malignancy, unfamiliar, uncertain, else low risk."""
    assert decide(answers, RULES).tolist() == [expected]


def test_report_counts_every_picture_once() -> None:
    """Decisions add up, and the share of malignant lesions not called low risk is counted from them."""
    part = predictions(400)
    random = np.random.default_rng(0)
    answers = Answers(part, random.random(400), random.random(400) < 0.05)
    found = decision_report(answers, RULES, RESAMPLING)
    counts = found["counts"]
    assert sum(of["malignant"] + of["benign"] for of in counts.values()) == 400
    malignant = int(MALIGNANT[part.labels].sum())
    expected = 1 - counts["low_risk"]["malignant"] / malignant
    assert found["malignant_referred_or_abstained"]["value"] == pytest.approx(expected, abs=1e-5)


def test_predictive_values_by_bayes() -> None:
    """At 5 % malignant: from the shares of malignant and benign lesions that get each decision."""
    part = predictions(400)
    answers = Answers(part, np.ones(400), np.zeros(400, bool))
    decided, malignant = decide(answers, RULES), MALIGNANT[part.labels]
    found = decision_report(answers, RULES, RESAMPLING)["by_prevalence"]["0.05"]
    hit, alarm = (decided[malignant] == "refer").mean(), (decided[~malignant] == "refer").mean()
    expected = 0.05 * hit / (0.05 * hit + 0.95 * alarm)
    assert found["refer_positive_predictive_value"]["value"] == pytest.approx(expected, abs=1e-4)


def test_no_missed_lesion_is_no_proof() -> None:
    """When no malignant lesion was called low risk, the interval still leaves room for one."""
    labels = np.array([CLASSES.index("mel")] * 30 + [CLASSES.index("nv")] * 70)
    pictures = tuple(picture(f"p{i}", CLASSES[label]) for i, label in enumerate(labels))
    answers = Answers(Predictions(pictures, np.eye(7)[labels]), np.ones(100), np.zeros(100, bool))
    found = decision_report(answers, RULES, RESAMPLING)
    assert found["malignant_referred_or_abstained"]["value"] == 1.0
    assert found["malignant_referred_or_abstained"]["low"] == pytest.approx(0.025 ** (1 / 30), abs=1e-4)
    for prevalence in ("0.02", "0.2"):
        negative = found["by_prevalence"][prevalence]["low_risk_negative_predictive_value"]
        assert negative["value"] == 1.0
        assert 0.9 < negative["low"] < 1.0


def test_shifting_prevalence_multiplies_the_odds() -> None:
    """From 20 % to 50 % malignant the odds are four times as high; back again restores every probability."""
    probabilities = predictions(50).probabilities
    shifted = shift_prevalence(probabilities, 0.2, 0.5)
    before, after = (p[:, MALIGNANT].sum(axis=1) for p in (probabilities, shifted))
    assert after / (1 - after) == pytest.approx(4 * before / (1 - before))
    assert shift_prevalence(shifted, 0.5, 0.2) == pytest.approx(probabilities)


def test_poor_quality_leaves_size_out() -> None:
    """The collections' small copies are not refused for their size; a uniform picture is refused."""
    random = np.random.default_rng(0)
    images = np.stack([random.integers(60, 200, (32, 32, 3), np.uint8), np.full((32, 32, 3), 128, np.uint8)])
    limits = QualityLimits(
        min_side_pixels=1000, sharpness_min=0, brightness_min=0, brightness_max=1, dark_share_max=1, bright_share_max=1,
        contrast_min=0.05,
    )  # fmt: skip
    assert poor_quality(images, limits).tolist() == [False, True]


def test_evaluated_rules_are_the_services() -> None:
    """What the evaluation counts is what the service answers, for any mix of scores, quality and certainty."""
    part, random = predictions(300), np.random.default_rng(0)
    answers = Answers(part, random.random(300), random.random(300) < 0.1)
    manifest = SimpleNamespace(certainty=RULES.certainty, in_distribution=RULES.in_distribution)
    served = [
        interpret.decide(
            interpret.certainty_answer(row.tolist(), manifest),  # type: ignore[arg-type]
            SimpleNamespace(above_threshold=malignancy >= RULES.threshold),  # type: ignore[arg-type]
            SimpleNamespace(problems=["blurred"] if poor else []),  # type: ignore[arg-type]
            float(score),
            manifest,  # type: ignore[arg-type]
        )[0]
        for row, malignancy, poor, score in zip(
            part.probabilities, part.malignancy, answers.poor, answers.scores, strict=True
        )
    ]
    assert served == decide(answers, RULES).tolist()
    assert set(served) == {"refer", "low_risk", "abstain"}
