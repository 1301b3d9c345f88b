"""From logits to probabilities a clinic can read, and every limit of the decision. All chosen on validation pictures.

The network learns what speaks for a class beyond its frequency (`train.log_priors`). How much of the natural class
mix to add back is a trade: all of it gives calibrated probabilities, none of it finds rare classes best. A mixture of
both keeps the most probable diagnosis mostly as it is without, and lets frequency speak for the second.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import softmax

from model_store.contract.certainty import CertaintyMeasure, certainty
from model_store.contract.manifest import InDistribution
from model_store.contract.quality import PictureQuality, QualityLimits
from model_store.lesions import lesions
from training.config import Decision
from training.data import CLASSES, Picture
from training.metrics import Floats, Ints, balanced_accuracy, expected_calibration_error
from training.train import log_priors

MALIGNANT = np.array([lesion.malignant for lesion in lesions().values()])
# (share, weight): the natural prior to some power for every picture, or for a part of the mixture.
PRIORS: tuple[tuple[float, float], ...] = (
    *((share, 1.0) for share in np.round(np.linspace(0, 1, 21), 2).tolist()),
    *((share, weight) for share in (1.0, 2.0) for weight in np.round(np.linspace(0.05, 0.5, 10), 2).tolist()),
)
_TEMPERATURES = (0.05, 20.0)
_SMALLEST = 1e-300  # a probability whose logarithm is still a number
CERTAINTY_MEASURES: tuple[CertaintyMeasure, ...] = get_args(CertaintyMeasure)
# Between a balanced mix, where each diagnosis is as likely to be right, and the natural one, where a network that was
# taught to find rare classes is hardly ever certain of one. Powers from a third to three quarters sort alike.
_CERTAINTY_PRIOR_SHARE = 0.5
_COST_OF_A_MISS = 2.0  # points of balanced accuracy for each point by which a limit is missed
_NEAR_TIE = 0.005  # of balanced accuracy: a third of a validation part's standard error, so not a reason to choose


@dataclass(frozen=True)
class Candidate:
    """A prior with the temperature that fits it best, and what the two give on validation."""

    prior_share: float
    prior_weight: float
    temperature: float
    negative_log_likelihood: float
    balanced_accuracy: float
    expected_calibration_error: float
    top2_accuracy: float


@dataclass(frozen=True)
class Calibration:
    """A mixture of a balanced class mix and one that is like the natural prior to the power of `prior_share`.

    probabilities = (1 - prior_weight) * softmax(z) + prior_weight * softmax(z + prior_share * log_prior)
    with z = logits / temperature.
    """

    temperature: float
    prior_share: float
    prior_weight: float
    log_prior: tuple[float, ...]

    @property
    def prior(self) -> dict[str, float]:
        """Natural share of each class."""
        return dict(zip(CLASSES, np.exp(self.log_prior).tolist(), strict=True))

    @property
    def certainty_weights(self) -> tuple[float, ...]:
        """What each class's probability counts in telling certain answers, [classes]."""
        return tuple(np.exp(_CERTAINTY_PRIOR_SHARE * np.asarray(self.log_prior)).tolist())

    def probabilities(self, logits: NDArray[np.float32]) -> Floats:
        """Logits [N, classes] -> float64 [N, classes]."""
        balanced = logits.astype(np.float64) / self.temperature
        natural = softmax(balanced + self.prior_share * np.asarray(self.log_prior), axis=1)
        return np.asarray((1 - self.prior_weight) * softmax(balanced, axis=1) + self.prior_weight * natural)


@dataclass(frozen=True)
class Certainty:
    """The measure of certainty that sorts right answers from wrong ones best, and where uncertain begins."""

    measure: CertaintyMeasure
    class_weights: tuple[float, ...]
    threshold: float
    coverage: float
    area_under_risk_coverage: dict[str, float]  # of every measure: mean error rate over all coverages


@dataclass(frozen=True)
class OperatingPoint:
    """What was chosen on natural-mix validation pictures, with the tables it was chosen from."""

    calibration: Calibration
    threshold: float
    reference_prevalence: float
    certainty: Certainty
    validation_pictures: int
    candidates: tuple[Candidate, ...]

    def as_json(self) -> dict[str, Any]:
        """For the evaluation file."""
        return {
            "temperature": self.calibration.temperature,
            "prior_share": self.calibration.prior_share,
            "prior_weight": self.calibration.prior_weight,
            "prior": self.calibration.prior,
            "malignancy_threshold": self.threshold,
            "reference_prevalence": self.reference_prevalence,
            "certainty": asdict(self.certainty),
            "validation_pictures": self.validation_pictures,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


def calibrate(
    logits: NDArray[np.float32], labels: Ints, log_prior: Sequence[float], decision: Decision
) -> OperatingPoint:
    """Choose the prior and the temperature, then the threshold, on natural-mix validation pictures.

    `logits` float32 [N, classes] and `labels` int64 [N] are of pictures with the natural class mix: on any other mix
    neither a probability nor a specificity means anything to a clinic.
    """
    candidates = tuple(
        _candidate(logits, labels, Calibration(1.0, share, weight, tuple(log_prior))) for share, weight in PRIORS
    )
    chosen = choose(candidates, decision)
    calibration = Calibration(chosen.temperature, chosen.prior_share, chosen.prior_weight, tuple(log_prior))
    probabilities = calibration.probabilities(logits)
    malignancy = probabilities[:, MALIGNANT].sum(axis=1)
    return OperatingPoint(
        calibration,
        threshold_for(malignancy, MALIGNANT[labels], decision.malignant_sensitivity),
        reference_prevalence(malignancy, float(MALIGNANT[labels].mean())),
        choose_certainty(probabilities, labels, calibration.certainty_weights, decision.certain_share),
        len(labels),
        candidates,
    )


def choose(candidates: Sequence[Candidate], limits: Decision) -> Candidate:
    """The best balanced accuracy, less what the limits are missed by; near-ties to the smallest log likelihood loss,
    unless they miss the limits by more.

    Too much calibration error and too few right among the two diagnoses that are shown count against accuracy rather
    than forbid: measured on some hundred pictures, the error is uncertain by nearly a hundredth (probabilities that are
    exactly right have 0.03 of it on 850), and one prior instead of another is worth ten times that.
    """

    def missed(candidate: Candidate) -> float:
        miscalibrated = max(0.0, candidate.expected_calibration_error - limits.ece_limit)
        return miscalibrated + max(0.0, limits.top2_limit - candidate.top2_accuracy)

    def worth(candidate: Candidate) -> float:
        return candidate.balanced_accuracy - _COST_OF_A_MISS * missed(candidate)

    best = max(candidates, key=worth)
    near_ties = (c for c in candidates if worth(c) >= worth(best) - _NEAR_TIE and missed(c) <= missed(best))
    return min(near_ties, key=lambda c: c.negative_log_likelihood)


def at_prevalence(malignancy: Floats, reference: float, prevalence: float) -> Floats:
    """Malignancy probabilities [N] that are right where `reference` is the malignant share -> right at `prevalence`."""
    factor = odds_factor(reference, prevalence)
    return np.asarray(malignancy * factor / (malignancy * factor + 1 - malignancy))


def odds_factor(reference: float, prevalence: float) -> float:
    """What the odds of malignant against benign are multiplied by from one malignant share to another."""
    return prevalence / (1 - prevalence) * (1 - reference) / reference


def reference_prevalence(malignancy: Floats, observed: float) -> float:
    """The malignant share that the probabilities are right for.

    The network learnt from a balanced mix and only part of the natural prior was added back, so it is not the share
    in the pictures. It is the one from which shifting to the observed share gives the observed share on average.
    """
    edges = (1e-4, 1 - 1e-4)

    def error(reference: float) -> float:
        return float(at_prevalence(malignancy, reference, observed).mean()) - observed

    if not 0 < observed < 1 or error(edges[0]) * error(edges[1]) >= 0:
        return float(np.clip(observed, *edges))  # only in runs on a handful of pictures
    return float(brentq(error, *edges))


def choose_certainty(
    probabilities: Floats, labels: Ints, class_weights: tuple[float, ...], certain_share: float
) -> Certainty:
    """The measure with the smallest area under the risk-coverage curve; the limit leaves `certain_share` above it."""
    wrong = probabilities.argmax(axis=1) != labels
    areas: dict[str, float] = {}
    for measure in CERTAINTY_MEASURES:
        ranked = wrong[np.argsort(-certainty(probabilities, measure, class_weights), kind="stable")]
        areas[measure] = float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1)).mean())
    best = min(CERTAINTY_MEASURES, key=lambda measure: areas[measure])
    scores = certainty(probabilities, best, class_weights)
    threshold = float(np.quantile(scores, 1 - certain_share))
    return Certainty(best, class_weights, threshold, float((scores >= threshold).mean()), areas)


def choose_gate(scores: dict[str, Floats], refused_share: float, warned_share: float) -> InDistribution:
    """Scores of validation lesions by collection -> the limits that refuse and warn at most these shares of each."""
    refuse, warn = (
        min(float(np.quantile(of, share)) for of in scores.values()) for share in (refused_share, warned_share)
    )
    return InDistribution(refuse_below=min(refuse, warn), warn_below=warn)


def choose_quality(measured: Sequence[PictureQuality], refused_share: float, min_side_pixels: int) -> QualityLimits:
    """Limits that refuse about `refused_share` of the validation pictures by each measure.

    The size is not among what can be learnt here, as the copies that are trained on have one size.
    """
    low, high = refused_share, 1 - refused_share

    def limit(name: str, share: float) -> float:
        return float(np.quantile([getattr(picture, name) for picture in measured], share))

    return QualityLimits(
        min_side_pixels=min_side_pixels,
        sharpness_min=limit("sharpness", low),
        brightness_min=limit("brightness", low),
        brightness_max=limit("brightness", high),
        dark_share_max=limit("dark_share", high),
        bright_share_max=limit("bright_share", high),
        contrast_min=limit("contrast", low),
    )


def fit_temperature(logits: NDArray[np.float32], labels: Ints, calibration: Calibration) -> tuple[float, float]:
    """The temperature that gives `calibration` the smallest mean negative log likelihood, and that likelihood."""

    def loss(log_temperature: float) -> float:
        tempered = replace(calibration, temperature=float(np.exp(log_temperature)))
        right = tempered.probabilities(logits)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(right, _SMALLEST)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)), float(found.fun)


def threshold_for(scores: Floats, positive: NDArray[np.bool_], sensitivity: float) -> float:
    """The largest threshold at which at least `sensitivity` of the positives score at or above it.

    Halfway between the last score that counts and the next lower one, so that neither sits on the edge.
    """
    positives = np.sort(scores[positive])
    if not len(positives):
        return 0.5  # nothing to choose from: only in runs on a handful of pictures
    # Rounded before ceil: 0.95 * 20 is 19.000000000000004 in some products.
    needed = int(np.ceil(round(sensitivity * len(positives), 9)))
    last = positives[len(positives) - needed]
    lower = scores[scores < last]
    halfway = (last + (lower.max() if len(lower) else 0.0)) / 2
    return float(np.clip(halfway, 1e-6, 1 - 1e-6))


def natural_log_prior(pictures: tuple[Picture, ...], parts: dict[str, str], natural_mix: str) -> tuple[float, ...]:
    """log of the class mix of the natural collection's training part, [classes]."""
    train = torch.tensor([i for i, picture in enumerate(pictures) if parts[picture.image_id] == "train"])
    any_of_it = next(i for i, picture in enumerate(pictures) if picture.collection == natural_mix)
    return tuple(log_priors(pictures, train)[any_of_it].double().tolist())


def _candidate(logits: NDArray[np.float32], labels: Ints, calibration: Calibration) -> Candidate:
    """`calibration` with the temperature that fits it best."""
    temperature, loss = fit_temperature(logits, labels, calibration)
    probabilities = replace(calibration, temperature=temperature).probabilities(logits)
    once = np.ones((1, len(labels)))
    accuracy = balanced_accuracy(labels, probabilities.argmax(axis=1), len(CLASSES), once)
    error = expected_calibration_error(labels, probabilities, once)
    two = np.argsort(-probabilities, axis=1)[:, :2]
    return Candidate(
        prior_share=calibration.prior_share,
        prior_weight=calibration.prior_weight,
        temperature=temperature,
        negative_log_likelihood=loss,
        balanced_accuracy=float(accuracy[0]),
        expected_calibration_error=float(error[0]),
        top2_accuracy=float((two == labels[:, None]).any(axis=1).mean()),
    )
