"""What the network says of a picture -> decision, diagnoses, malignancy, warnings. Everything specific comes from the
manifest.

The gates fail closed: a picture that is no lesion, or too poor to judge, gets no verdict however sure the network is.
A site's prevalence moves the probabilities that are shown, never the decision.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from model_store.contract.certainty import certainty
from model_store.contract.manifest import Manifest
from model_store.contract.quality import problems
from model_store.lesions import lesions
from service.decode import DecodedPicture
from service.engine import PictureOutput
from service.schemas import (
    CertaintyAnswer,
    Decision,
    Diagnosis,
    InDistributionAnswer,
    MalignancyAnswer,
    QualityAnswer,
    QualityProblem,
    QualityScores,
    Reason,
)

_DIGITS = 6  # of figures that are derived from the probabilities
# Wider than any camera's format: the squashed lesion no longer looks like one that the network has seen.
_EXTREME_ASPECT = 2.2
_REASON_WARNINGS: dict[Reason, str] = {
    "not_a_lesion": "This does not look like a dermatoscopic picture of a skin lesion, so there is no diagnosis. "
    "Take the picture through a dermatoscope, with the lesion in the middle.",
    "unfamiliar": "The picture differs from those that the network was trained on: the device, the site or the kind of "
    "lesion may be unknown to it. Do not rely on this answer; have a doctor look at the lesion.",
    "uncertain": "The network is not certain enough of its answer. Take another picture, or have a doctor look at the "
    "lesion.",
}
_QUALITY_WARNINGS: dict[QualityProblem, str] = {
    "too_small": "The picture is too small: take it closer, or send it in full resolution.",
    "too_dark": "The picture is too dark: take it again with more light.",
    "overexposed": "The picture is overexposed: take it again with less light and without reflections.",
    "uniform": "The picture shows little but one colour: check that the lens is free and the lesion in view.",
    "blurred": "The picture is blurred: hold still, focus on the lesion and take it again.",
}
_NO_ALL_CLEAR = (
    "The probability of malignancy is above the threshold all the same: if this is a lesion, have a doctor look at it."
)


@dataclass(frozen=True)
class Interpretation:
    """The part of the answer that says what the picture shows; fields as in `schemas.Prediction`."""

    decision: Decision
    reasons: list[Reason]
    diagnoses: list[Diagnosis]
    probabilities: dict[str, float]
    malignancy: MalignancyAnswer
    certainty: CertaintyAnswer
    quality: QualityAnswer
    in_distribution: InDistributionAnswer
    warnings: list[str]


def interpret(
    output: PictureOutput, picture: DecodedPicture, manifest: Manifest, prevalence: float | None
) -> Interpretation:
    """`prevalence` is the share of malignant lesions where the picture was taken; None leaves probabilities alone."""
    given = [float(p) for p in output.probabilities]
    shown = shifted(given, manifest, prevalence)
    malignancy = malignancy_answer(given, manifest, prevalence)
    quality = quality_answer(picture, manifest)
    in_distribution = in_distribution_answer(output.in_distribution, manifest)
    certain = certainty_answer(given, manifest)
    decision, reasons = decide(certain, malignancy, quality, output.in_distribution, manifest)
    return Interpretation(
        decision,
        reasons,
        two_most_probable(shown, manifest) if in_distribution.accepted else [],
        all_probabilities(shown, manifest),
        malignancy,
        certain,
        quality,
        in_distribution,
        [
            *answer_warnings(decision, reasons, malignancy, output.in_distribution, manifest),
            *picture_warnings(picture.width, picture.height, quality, manifest),
        ],
    )


def decide(
    certain: CertaintyAnswer,
    malignancy: MalignancyAnswer,
    quality: QualityAnswer,
    score: float,
    manifest: Manifest,
) -> tuple[Decision, list[Reason]]:
    """The first rule that holds decides; when that is to abstain, every reason to is listed.

    Only no lesion and poor quality keep a malignant finding from being referred: doubt alone never does.
    """
    limits = manifest.in_distribution
    reasons: list[Reason] = []
    if score < limits.refuse_below:
        reasons.append("not_a_lesion")
    if quality.problems:
        reasons.append("poor_quality")
    if malignancy.above_threshold and not reasons:
        return "refer", ["malignancy"]
    if limits.refuse_below <= score < limits.warn_below:
        reasons.append("unfamiliar")
    if not certain.accepted:
        reasons.append("uncertain")
    return ("abstain", reasons) if reasons else ("low_risk", [])


def shifted(probabilities: Sequence[float], manifest: Manifest, prevalence: float | None) -> list[float]:
    """The probabilities for a site with this share of malignant lesions: Bayes' rule with another prior."""
    if prevalence is None:
        return list(probabilities)
    factor = _odds_factor(manifest, prevalence)
    weights = [p * factor if bad else p for p, bad in zip(probabilities, manifest.malignant, strict=True)]
    return [weight / sum(weights) for weight in weights]


def malignancy_answer(probabilities: Sequence[float], manifest: Manifest, prevalence: float | None) -> MalignancyAnswer:
    """Sum over the malignant classes, against the version's threshold; both shown for `prevalence`."""
    total, point = _malignant_share(probabilities, manifest), manifest.malignancy
    factor = _odds_factor(manifest, prevalence)
    positive, negative = _predictive_values(point.sensitivity, point.specificity, prevalence)
    return MalignancyAnswer(
        probability=round(min(_malignant_share(shifted(probabilities, manifest, prevalence), manifest), 1.0), _DIGITS),
        threshold=round(point.threshold * factor / (point.threshold * factor + 1 - point.threshold), _DIGITS),
        above_threshold=total >= point.threshold,
        prevalence=prevalence,
        positive_predictive_value=positive,
        negative_predictive_value=negative,
    )


def two_most_probable(probabilities: Sequence[float], manifest: Manifest) -> list[Diagnosis]:
    """Best first; equal probabilities keep the manifest's order."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    return [_diagnosis(manifest.classes[i], probabilities[i]) for i in order[:2]]


def all_probabilities(probabilities: Sequence[float], manifest: Manifest) -> dict[str, float]:
    """Class code -> probability, not rounded: who repeats an answer can compare every bit of the network's float32."""
    return dict(zip(manifest.classes, probabilities, strict=True))


def quality_answer(picture: DecodedPicture, manifest: Manifest) -> QualityAnswer:
    """The measurements against the version's limits."""
    found = cast(list[QualityProblem], list(problems(picture.quality, manifest.quality)))
    scores = {name: round(value, 4) for name, value in asdict(picture.quality).items()}
    return QualityAnswer(accepted=not found, problems=found, scores=QualityScores.model_validate(scores))


def certainty_answer(probabilities: Sequence[float], manifest: Manifest) -> CertaintyAnswer:
    """How sure the network is of its first diagnosis, against the version's limit."""
    rule = manifest.certainty
    score = float(certainty(np.array([probabilities]), rule.measure, rule.class_weights)[0])
    accepted = score >= rule.threshold
    return CertaintyAnswer(accepted=accepted, score=round(score, _DIGITS), threshold=round(rule.threshold, _DIGITS))


def in_distribution_answer(score: float, manifest: Manifest) -> InDistributionAnswer:
    """The score against the version's limit."""
    limit = manifest.in_distribution.refuse_below
    return InDistributionAnswer(accepted=score >= limit, score=round(score, _DIGITS), threshold=round(limit, _DIGITS))


def answer_warnings(
    decision: Decision, reasons: Sequence[Reason], malignancy: MalignancyAnswer, score: float, manifest: Manifest
) -> list[str]:
    """What stands against relying on the answer, and what to do."""
    doubts = list(reasons)
    if decision == "refer" and score < manifest.in_distribution.warn_below:
        doubts.append("unfamiliar")  # no reason to withhold a referral, but to be said
    found = [_REASON_WARNINGS[reason] for reason in doubts if reason in _REASON_WARNINGS]
    if decision == "abstain" and malignancy.above_threshold:
        found.append(_NO_ALL_CLEAR)
    return found


def picture_warnings(width: int, height: int, quality: QualityAnswer, manifest: Manifest) -> list[str]:
    """What is wrong with the picture itself, and how to take a better one; sizes in pixels."""
    contract = manifest.preprocessing
    found = [_QUALITY_WARNINGS[problem] for problem in quality.problems]
    if "too_small" not in quality.problems and (width < contract.width or height < contract.height):
        found.append(
            f"The picture is small ({width} x {height} pixels; the network looks at {contract.width} x "
            f"{contract.height}): fine structures are missing and the answer is less reliable."
        )
    if max(width, height) > _EXTREME_ASPECT * min(width, height):
        found.append("The picture is unusually long and narrow: the lesion's shape may be misjudged.")
    return found


def _malignant_share(probabilities: Sequence[float], manifest: Manifest) -> float:
    return sum(p for p, malignant in zip(probabilities, manifest.malignant, strict=True) if malignant)


def _odds_factor(manifest: Manifest, prevalence: float | None) -> float:
    """What the odds of malignant against benign are multiplied by."""
    if prevalence is None:
        return 1.0
    reference = manifest.calibration.reference_prevalence
    factor = prevalence / (1 - prevalence) * (1 - reference) / reference
    return max(factor, sys.float_info.min)  # a prevalence near 0 must not make every weight 0


def _predictive_values(
    sensitivity: float, specificity: float, prevalence: float | None
) -> tuple[float | None, float | None]:
    """Positive and negative; None without a prevalence, or where nobody is above (below) the threshold."""
    if prevalence is None:
        return None, None
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return _share(true_positive, false_positive), _share(true_negative, false_negative)


def _share(right: float, wrong: float) -> float | None:
    return round(right / (right + wrong), _DIGITS) if right + wrong else None


def _diagnosis(code: str, probability: float) -> Diagnosis:
    lesion = lesions()[code]
    return Diagnosis(code=code, name=lesion.name, probability=probability, malignant=lesion.malignant)
