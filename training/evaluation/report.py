"""Everything that is measured on the test part, topic by topic, from the graph that is published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.contract.manifest import VariantName
from training.calibrate import MALIGNANT
from training.config import Config
from training.data import Picture
from training.evaluation.compare import FP32, paired
from training.evaluation.decision import Answers, Rules, decision_report, poor_quality
from training.evaluation.explain_check import explanation_report
from training.evaluation.refusals import Outside, gate_report
from training.evaluation.reliability import calibration_report
from training.evaluation.robustness import measure_robustness
from training.evaluation.selective import selective_report
from training.evaluation.stability import measure_stability
from training.evaluation.tables import Predictions, Resampling, classify, evaluate, in_collection
from training.export import CLASS_MAPS, IN_DISTRIBUTION, PROBABILITIES, OnnxClassifier
from training.render import Renderer, in_batches


@dataclass(frozen=True)
class Effort:
    """How many pictures are looked at where each has to be answered many times; some minutes on two cores."""

    robustness_per_class: int = 60
    stability_pictures: int = 300
    explained_pictures: int = 120


@dataclass(frozen=True)
class Tested:
    """The test part of all collections as the fp32 graph saw and answered it; rows belong to `pictures`."""

    pictures: tuple[Picture, ...]
    images: NDArray[np.uint8]
    outputs: dict[str, NDArray[np.float32]]

    @staticmethod
    def by(classifier: OnnxClassifier, pictures: tuple[Picture, ...], images: NDArray[np.uint8]) -> "Tested":
        """Ask the graph; images uint8 [N, H, W, 3]."""
        batches = [classifier.outputs(batch) for batch in in_batches(images)]
        return Tested(pictures, images, {name: np.concatenate([b[name] for b in batches]) for name in batches[0]})

    @property
    def predictions(self) -> Predictions:
        """Probabilities with their pictures."""
        return Predictions(self.pictures, self.outputs[PROBABILITIES].astype(np.float64))

    def answers(self, rules: Rules) -> Answers:
        """With what the gates say."""
        scores = self.outputs[IN_DISTRIBUTION].astype(np.float64)
        return Answers(self.predictions, scores, poor_quality(self.images, rules.quality))


@dataclass(frozen=True)
class Report:
    """`found` for evaluation.json, and what the plots are drawn from; `natural` is the test part of the natural mix."""

    found: dict[str, Any]
    natural: Predictions
    rules: Rules
    lesion_scores: NDArray[np.float64]
    outliers: Mapping[str, Outside]


def full_report(
    graphs: Mapping[VariantName, bytes],
    tested: Tested,
    config: Config,
    rules: Rules,
    renderer: Renderer,
    outliers: Mapping[str, Outside],
    effort: Effort = Effort(),
) -> Report:
    """Every topic. What is not about groups, collections or gates is measured on the natural mix."""
    classifier, resample = OnnxClassifier(graphs[FP32]), Resampling(config.seed, config.bootstrap_resamples)
    everything = tested.answers(rules)
    is_natural = np.array([picture.collection == config.data.natural_mix for picture in tested.pictures])
    natural = everything.of(is_natural)
    part = natural.predictions
    some = _some(len(part.pictures), effort.stability_pictures, config.seed)
    explained = np.flatnonzero(is_natural)[_some(len(part.pictures), effort.explained_pictures, config.seed)]
    found = {
        "test": evaluate(everything.predictions, config, rules.threshold),
        "reliability": calibration_report(part, rules.reference_prevalence, resample),
        "selective": selective_report(part, rules.certainty, resample),
        "decision": decision_report(natural, rules, resample),
        "gates": gate_report(everything, outliers, rules.in_distribution, resample),
        "stability": measure_stability(classifier, _taken(part, some).pictures, renderer, rules.threshold, resample),
        "robustness": measure_robustness(
            classifier, part.pictures, renderer, rules, resample, effort.robustness_per_class
        ),
        "explanation": explanation_report(
            graphs[FP32],
            _taken(everything.predictions, explained),
            tested.images[explained],
            tested.outputs[CLASS_MAPS][explained],
            resample,
        ),
        "variants": {
            name: _variant(graph, tested, config, rules, resample) for name, graph in graphs.items() if name != FP32
        },
    }
    return Report(found, part, rules, everything.scores, outliers)


def sensitivity_and_specificity(report: Report) -> tuple[float, float]:
    """Of the malignancy decision on the natural mix, as the manifest states them."""
    malignant, flagged = MALIGNANT[report.natural.labels], report.natural.malignancy >= report.rules.threshold
    return float(flagged[malignant].mean()), float((~flagged[~malignant]).mean())


def _variant(graph: bytes, tested: Tested, config: Config, rules: Rules, resample: Resampling) -> dict[str, Any]:
    """Another number format against fp32, on the natural mix and on all, with paired intervals."""
    classifier, plain = OnnxClassifier(graph), tested.predictions
    other = Predictions(tested.pictures, classify(classifier, in_batches(tested.images)))
    thresholds, natural = (rules.threshold, rules.threshold), in_collection(config.data.natural_mix)
    return {
        config.data.natural_mix: paired(plain.of(natural), other.of(natural), thresholds, resample),
        "all": paired(plain, other, thresholds, resample),
    }


def _some(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """Indices of at most `most` of `n` pictures, in order; drawn evenly, so the class mix stays."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _taken(part: Predictions, indices: NDArray[np.int64]) -> Predictions:
    return Predictions(tuple(part.pictures[index] for index in indices), part.probabilities[indices])
