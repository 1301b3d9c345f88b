"""What the network says becomes a decision, diagnoses and warnings as the manifest says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.interpret import Interpretation, interpret
from tests.service.stand_ins import CLASSES, manifest, output, picture

EXAMPLE = manifest()
BLURRED = {"sharpness": 0.1}


def reading(
    score: float = 0.9, quality: dict | None = None, prevalence: float | None = None, **p: float
) -> Interpretation:
    return interpret(output(score, **p), picture(**(quality or {})), EXAMPLE, prevalence)


@pytest.mark.parametrize(
    ("score", "quality", "probabilities", "decision", "reasons"),
    [
        (0.9, {}, {"nv": 0.9, "bkl": 0.1}, "low_risk", []),
        (0.9, {}, {"mel": 0.3}, "refer", ["malignancy"]),
        (0.9, {}, {"mel": 0.2}, "refer", ["malignancy"]),  # at the threshold counts as above
        (0.9, {}, {"mel": 0.199}, "low_risk", []),
        (0.9, {}, {"akiec": 0.07, "bcc": 0.07, "mel": 0.07}, "refer", ["malignancy"]),  # the sum counts
        (0.05, {}, {}, "abstain", ["not_a_lesion"]),
        (0.05, {}, {"mel": 0.9}, "abstain", ["not_a_lesion"]),
        (0.05, BLURRED, {}, "abstain", ["not_a_lesion", "poor_quality"]),
        (0.9, BLURRED, {}, "abstain", ["poor_quality"]),
        (0.9, BLURRED, {"mel": 0.9}, "abstain", ["poor_quality"]),
        (0.1, {}, {}, "abstain", ["unfamiliar"]),  # at the limit is not refused
        (0.49, {}, {}, "abstain", ["unfamiliar"]),
        (0.5, {}, {}, "low_risk", []),
        (0.3, {}, {"mel": 0.9}, "refer", ["malignancy"]),  # doubt never holds a referral back
        (0.9, {}, {"nv": 0.5, "bkl": 0.5}, "abstain", ["uncertain"]),
        (0.9, {}, {"nv": 0.625, "bkl": 0.375}, "low_risk", []),
        (0.9, {}, {"mel": 0.5}, "refer", ["malignancy"]),  # uncertain, but above the threshold
        (0.3, BLURRED, {"nv": 0.5, "bkl": 0.5}, "abstain", ["poor_quality", "unfamiliar", "uncertain"]),
        (0.05, {}, {"nv": 0.5, "bkl": 0.5}, "abstain", ["not_a_lesion", "uncertain"]),
    ],
)
def test_the_decision_table(
    score: float, quality: dict, probabilities: dict[str, float], decision: str, reasons: list[str]
) -> None:
    """The first rule that holds decides, and all reasons to abstain are listed in their order."""
    found = reading(score, quality, **probabilities)
    assert (found.decision, found.reasons) == (decision, reasons)


@pytest.mark.parametrize(("measure", "threshold"), [("max_probability", 0.69), ("margin", 0.39), ("entropy", 0.685)])
def test_certainty_is_measured_as_the_manifest_says(measure: str, threshold: float) -> None:
    """With 0.7 and 0.3, certainty is 0.7, 0.4 and 0.686: just below the limit it is enough, just above it is not."""
    for limit, decision in ((threshold, "low_risk"), (threshold + 0.02, "abstain")):
        limits = manifest(certainty={"measure": measure, "threshold": limit, "coverage": 0.8})
        assert interpret(output(bkl=0.3), picture(), limits, None).decision == decision


def test_the_answer_says_how_certain_it_is() -> None:
    """Score and limit as the decision takes them; a site's prevalence moves neither."""
    rule = {
        "measure": "weighted_probability",
        "threshold": 0.3,
        "class_weights": [0.5] * 5 + [1.0, 0.5],
        "coverage": 0.8,
    }
    for prevalence in (None, 0.5):
        found = interpret(output(mel=0.4), picture(), manifest(certainty=rule), prevalence).certainty
        assert (found.accepted, found.threshold) == (True, 0.3)
        assert found.score == pytest.approx(0.6 / 0.8, abs=1e-6)  # 0.6 for nv counts whole, 0.4 for mel half
        assert not interpret(
            output(mel=0.4), picture(), manifest(certainty=rule | {"threshold": 0.76}), None
        ).certainty.accepted


def test_the_two_most_probable_come_best_first() -> None:
    """Order, name and malignancy belong to the class."""
    first, second = reading(mel=0.3, bkl=0.1).diagnoses
    assert (first.code, first.malignant, second.code, second.malignant) == ("nv", False, "mel", True)
    assert second.name == "Melanoma"


def test_what_is_clearly_no_lesion_gets_no_diagnosis() -> None:
    """The probabilities stay visible, the gate says why."""
    found = reading(score=0.0999, mel=0.9)
    assert found.diagnoses == []
    assert found.probabilities["mel"] == pytest.approx(0.9)
    assert (found.in_distribution.accepted, found.in_distribution.threshold) == (False, 0.1)
    assert reading(score=0.1, mel=0.9).in_distribution.accepted


@pytest.mark.parametrize(
    ("quality", "problem", "advice"),
    [
        ({"width": 90}, "too_small", "closer"),
        ({"brightness": 0.1}, "too_dark", "more light"),
        ({"dark_share": 0.7}, "too_dark", "more light"),
        ({"brightness": 0.97}, "overexposed", "less light"),
        ({"bright_share": 0.4}, "overexposed", "less light"),
        ({"contrast": 0.01}, "uniform", "lens"),
        ({"sharpness": 0.4}, "blurred", "focus"),
    ],
)
def test_poor_pictures_are_named_with_what_to_do(quality: dict, problem: str, advice: str) -> None:
    """Each problem has its code, and one sentence about taking a better picture; diagnoses stay visible."""
    found = reading(quality=quality)
    assert (found.quality.accepted, found.quality.problems) == (False, [problem])
    assert advice in " ".join(found.warnings)
    assert len(found.diagnoses) == 2


def test_a_good_picture_has_no_warning() -> None:
    """600 x 450, sharp, bright, certain, familiar: nothing to say; its scores are shown."""
    found = reading()
    assert found.warnings == []
    assert found.quality.accepted
    assert found.quality.scores.model_dump() == {
        "min_side_pixels": 450,
        "sharpness": 2.0,
        "brightness": 0.6,
        "dark_share": 0.05,
        "bright_share": 0.0,
        "contrast": 0.2,
    }


@pytest.mark.parametrize(
    ("score", "probabilities", "words"),
    [
        (0.05, {}, "does not look like a dermatoscopic picture"),
        (0.3, {}, "differs from those"),
        (0.3, {"mel": 0.9}, "differs from those"),  # said with a referral too
        (0.9, {"bkl": 0.5}, "not certain enough"),
    ],
)
def test_doubts_are_put_into_plain_words(score: float, probabilities: dict[str, float], words: str) -> None:
    """One sentence for each doubt."""
    assert [words in warning for warning in reading(score, **probabilities).warnings] == [True]


def test_abstaining_above_the_threshold_is_no_all_clear() -> None:
    """A blurred picture with a malignant finding is not referred, but nobody may read it as harmless."""
    assert "above the threshold all the same" in reading(quality=BLURRED, mel=0.9).warnings[0]
    assert "above the threshold" not in " ".join(reading(quality=BLURRED).warnings)


def test_small_and_narrow_pictures_are_warned_of() -> None:
    """Above the smallest size but with a side below the network's 64, and longer than any camera's format."""
    lenient = manifest(quality={**EXAMPLE.quality.model_dump(), "min_side_pixels": 10})
    for width, height in ((40, 63), (40, 64), (64, 40)):
        (warning,) = interpret(output(), picture(width, height), lenient, None).warnings
        assert f"small ({width} x {height} pixels" in warning
    assert interpret(output(), picture(64, 64), lenient, None).warnings == []
    assert "long and narrow" in reading(quality={"width": 900, "height": 120}).warnings[0]
    assert reading(quality={"width": 264, "height": 120}).warnings == []


def test_a_picture_that_is_too_small_is_told_so_once() -> None:
    """The limit of the quality and the network's size would say the same."""
    assert sum("small" in warning for warning in interpret(output(), picture(40, 40), EXAMPLE, None).warnings) == 1


def test_prevalence_shifts_by_bayes_rule() -> None:
    """Right for 25 % malignant, used where 10 % are: odds 0.3 / 0.7 become 0.3 / 0.7 / 3, so 0.3 becomes 0.125."""
    found = reading(prevalence=0.1, mel=0.2, bcc=0.1, bkl=0.1)
    assert found.malignancy.probability == 0.125
    # mel 0.2 / 3 and nv 0.6 of a total of 0.3 / 3 + 0.7
    assert found.probabilities["mel"] == pytest.approx(0.2 / 3 / 0.8, abs=1e-6)
    assert found.probabilities["nv"] == pytest.approx(0.6 / 0.8, abs=1e-6)
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    # The threshold moves alike: odds 0.2 / 0.8 / 3 = 1 / 12
    assert found.malignancy.threshold == pytest.approx(1 / 13, abs=1e-6)
    assert [d.code for d in found.diagnoses] == ["nv", "bkl"]


def test_the_prevalence_that_the_probabilities_are_right_for_changes_nothing() -> None:
    """Nor does none at all, and the threshold is the version's."""
    assert reading(prevalence=0.25, mel=0.3).probabilities == reading(mel=0.3).probabilities
    assert reading(mel=0.3).malignancy.threshold == reading(prevalence=0.25).malignancy.threshold == 0.2


def test_predictive_values_at_a_prevalence() -> None:
    """Sensitivity 0.9, specificity 0.8, 100 of 1000 malignant: 90 of 270 above are, 720 of 730 below are not."""
    found = reading(prevalence=0.1).malignancy
    assert found.prevalence == 0.1
    assert found.positive_predictive_value == pytest.approx(90 / 270, abs=1e-6)
    assert found.negative_predictive_value == pytest.approx(720 / 730, abs=1e-6)


def test_without_a_prevalence_there_are_no_predictive_values() -> None:
    """Null, not a guess."""
    found = reading().malignancy
    assert (found.prevalence, found.positive_predictive_value, found.negative_predictive_value) == (None, None, None)


def test_a_predictive_value_of_nobody_is_null() -> None:
    """Where the operating point puts nobody above the threshold, no share of them exists."""
    nobody = manifest(malignancy={**EXAMPLE.malignancy.model_dump(), "sensitivity": 0.0, "specificity": 1.0})
    assert interpret(output(), picture(), nobody, 0.1).malignancy.positive_predictive_value is None


@given(
    weights=st.lists(st.floats(0, 1), min_size=7, max_size=7).filter(lambda w: sum(w) > 0.01),
    score=st.floats(0, 1),
    prevalence=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_no_prevalence_changes_the_decision(weights: list[float], score: float, prevalence: float) -> None:
    """Whatever the network says, at any prevalence: same decision and reasons, finite probabilities that sum to 1."""
    given_probabilities = dict(zip(CLASSES, (np.array(weights) / sum(weights)).tolist(), strict=True))
    plain, moved = reading(score, **given_probabilities), reading(score, prevalence=prevalence, **given_probabilities)
    assert (moved.decision, moved.reasons) == (plain.decision, plain.reasons)
    assert moved.malignancy.above_threshold == plain.malignancy.above_threshold
    assert sum(moved.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert 0 <= moved.malignancy.probability <= 1


def test_all_probabilities_carry_their_codes() -> None:
    """In the manifest's order."""
    assert list(reading().probabilities) == list(CLASSES)
