"""Refer, low risk or abstain: what the service will answer for pictures whose diagnosis is known, and what that is
worth to a clinic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.contract.certainty import certainty
from model_store.contract.manifest import Certainty, InDistribution, Manifest
from model_store.contract.quality import PictureQuality, QualityLimits, measure, problems
from training import metrics
from training.calibrate import MALIGNANT, odds_factor
from training.data import Picture
from training.evaluation.tables import (
    Interval,
    Predictions,
    Resampling,
    chance_of_none,
    share_with_interval,
    with_interval,
)
from training.export import IN_DISTRIBUTION, PROBABILITIES, OnnxClassifier
from training.metrics import Bools, Floats

REFER, LOW_RISK, ABSTAIN = "refer", "low_risk", "abstain"
DECISIONS = (REFER, LOW_RISK, ABSTAIN)
PREVALENCES = (0.02, 0.05, 0.20)  # of malignant lesions: screening, a general practice, a referral clinic
_ANY_SIZE = 1 << 16  # pixels: the collections' copies are smaller than what the camera gave, so size is not judged


@dataclass(frozen=True)
class Rules:
    """What the decision goes by: the manifest's limits."""

    threshold: float
    reference_prevalence: float
    certainty: Certainty
    in_distribution: InDistribution
    quality: QualityLimits

    @staticmethod
    def of(manifest: Manifest) -> "Rules":
        """Those of a published version."""
        return Rules(
            manifest.malignancy.threshold,
            manifest.calibration.reference_prevalence,
            manifest.certainty,
            manifest.in_distribution,
            manifest.quality,
        )


@dataclass(frozen=True)
class Answers:
    """Predictions with what the gates saw: in-distribution scores float64 [N] and whether the quality is poor [N]."""

    predictions: Predictions
    scores: Floats
    poor: Bools

    def of(self, chosen: Bools) -> "Answers":
        """Those of the `chosen` [N]."""
        pictures = tuple(p for p, keep in zip(self.predictions.pictures, chosen, strict=True) if keep)
        part = Predictions(pictures, self.predictions.probabilities[chosen])
        return Answers(part, self.scores[chosen], self.poor[chosen])


def answers_to(
    classifier: OnnxClassifier,
    pictures: Sequence[Picture],
    batches: Iterable[NDArray[np.uint8]],
    limits: QualityLimits,
) -> Answers:
    """What graph and quality gate say to `pictures`, which come as `batches` uint8 [n, H, W, 3]."""
    probabilities, scores, poor = [], [], []
    for batch in batches:
        outputs = classifier.outputs(batch)
        probabilities.append(outputs[PROBABILITIES])
        scores.append(outputs[IN_DISTRIBUTION])
        poor.append(poor_quality(batch, limits))
    part = Predictions(tuple(pictures), np.concatenate(probabilities).astype(np.float64))
    return Answers(part, np.concatenate(scores).astype(np.float64), np.concatenate(poor))


def poor_quality(images: NDArray[np.uint8], limits: QualityLimits) -> Bools:
    """Which of the images uint8 [N, H, W, 3] the quality gate refuses, their size apart."""
    return np.array([bool(problems(quality, limits)) for quality in qualities(images)], bool)


def qualities(images: NDArray[np.uint8]) -> list[PictureQuality]:
    """What the quality gate measures on images uint8 [N, H, W, 3], with a size that is never too small."""
    return [measure(image, _ANY_SIZE, _ANY_SIZE) for image in images]


def abstain_reasons(answers: Answers, rules: Rules) -> dict[str, Bools]:
    """Which pictures each reason to abstain holds for; several may."""
    rule = rules.certainty
    sure = certainty(answers.predictions.probabilities, rule.measure, rule.class_weights)
    lesion = answers.scores >= rules.in_distribution.refuse_below
    return {
        "not_a_lesion": ~lesion,
        "poor_quality": answers.poor,
        "unfamiliar": lesion & (answers.scores < rules.in_distribution.warn_below),
        "uncertain": sure < rule.threshold,
    }


def decide(answers: Answers, rules: Rules) -> NDArray[np.str_]:
    """One of `DECISIONS` for each picture, by the service's rules in the service's order."""
    reasons = abstain_reasons(answers, rules)
    refused = reasons["not_a_lesion"] | reasons["poor_quality"]
    doubtful = reasons["unfamiliar"] | reasons["uncertain"]
    flagged = answers.predictions.malignancy >= rules.threshold
    return np.select([refused, flagged, doubtful], [ABSTAIN, REFER, ABSTAIN], LOW_RISK)


def decision_report(answers: Answers, rules: Rules, resample: Resampling) -> dict[str, Any]:
    """How often each decision falls, on whom, and what it is worth at several prevalences. JSON-ready."""
    decided, part, reasons = decide(answers, rules), answers.predictions, abstain_reasons(answers, rules)
    malignant, everyone = MALIGNANT[part.labels], np.ones(len(part.pictures), bool)

    def share(hits: Bools, among: Bools) -> Interval:
        return share_with_interval(hits, among, part.pictures, resample)

    return {
        "pictures": len(decided),
        "prevalence": round(float(malignant.mean()), 5),
        "counts": {
            name: {"malignant": int((malignant & (decided == name)).sum())}
            | {"benign": int((~malignant & (decided == name)).sum())}
            for name in DECISIONS
        },
        "shares": {name: share(decided == name, everyone) for name in DECISIONS},
        "abstain_reasons": {reason: int((found & (decided == ABSTAIN)).sum()) for reason, found in reasons.items()},
        "malignant_referred": share(decided == REFER, malignant),
        "malignant_referred_or_abstained": share(decided != LOW_RISK, malignant),
        "melanoma_referred_or_abstained": share(decided != LOW_RISK, np.array([p.dx == "mel" for p in part.pictures])),
        "benign_low_risk": share(decided == LOW_RISK, ~malignant),
        "refer_positive_predictive_value": share(malignant, decided == REFER),
        "low_risk_negative_predictive_value": share(~malignant, decided == LOW_RISK),
        "by_prevalence": {str(p): _predictive_values(decided, part, p, resample) for p in PREVALENCES},
    }


def shift_prevalence(probabilities: Floats, reference: float, wanted: float) -> Floats:
    """Probabilities [N, classes] that are right for a malignant share of `reference`, for `wanted`."""
    shifted = probabilities * np.where(MALIGNANT, odds_factor(reference, wanted), 1.0)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _predictive_values(
    decided: NDArray[np.str_], part: Predictions, prevalence: float, resample: Resampling
) -> dict[str, Interval]:
    """PPV of `refer` and NPV of `low_risk` where a share `prevalence` of the lesions is malignant (Bayes)."""
    malignant = MALIGNANT[part.labels]

    def values(weights: Floats) -> tuple[Floats, Floats]:
        referred = [metrics.share(decided == REFER, of, weights) for of in (malignant, ~malignant)]
        calmed = [metrics.share(decided == LOW_RISK, of, weights) for of in (malignant, ~malignant)]
        return (
            metrics.ratio(prevalence * referred[0], prevalence * referred[0] + (1 - prevalence) * referred[1]),
            metrics.ratio((1 - prevalence) * calmed[1], prevalence * calmed[0] + (1 - prevalence) * calmed[1]),
        )

    plain, resampled = values(np.ones((1, len(decided)))), values(resample.weights(part.pictures))
    positive, negative = (with_interval(p, r) for p, r in zip(plain, resampled, strict=True))
    if negative["value"] == 1.0:  # no malignant lesion was called low risk, which does not mean that none ever will
        lesions = len({p.lesion_id for p in part.pictures if MALIGNANT[p.label]})
        missed = prevalence * chance_of_none(max(lesions, 1))
        calmed = (1 - prevalence) * float((decided[~malignant] == LOW_RISK).mean())
        negative["low"] = round(calmed / (calmed + missed), 5)
    return {"refer_positive_predictive_value": positive, "low_risk_negative_predictive_value": negative}
