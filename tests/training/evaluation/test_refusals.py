"""Gate figures are those of the scores, by kind and by group; reference statistics describe the arrays they are of."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from model_store.contract.quality import measure
from tests.training.builders import RULES, picture, predictions
from tests.training.tiny_graph import colour_weights, tiny_graph
from training.config import Config
from training.evaluation.decision import Answers
from training.evaluation.refusals import Outside, gate_report, judge_outliers
from training.evaluation.tables import Predictions, Resampling
from training.export import OnnxClassifier
from training.outliers import Outlier
from training.reference import EDGES, QUANTILES, covariance_of, reference_statistics
from training.render import contract_of

RESAMPLING = Resampling(seed=0, resamples=100)
RANDOM = np.random.default_rng(0)
LESIONS = Answers(predictions(200), RANDOM.beta(8, 2, 200), RANDOM.random(200) < 0.05)
CLOSE_UPS = Outside(RANDOM.beta(2, 5, 80), np.zeros(80, bool))


def test_auroc_and_refused_shares_are_the_scores() -> None:
    """AUROC as scikit-learn's; refused by score, by quality or by either."""
    found = gate_report(LESIONS, {"close_up": CLOSE_UPS}, RULES.in_distribution, RESAMPLING)
    both = np.concatenate([LESIONS.scores, CLOSE_UPS.scores])
    of = found["outliers"]["close_up"]
    assert of["auroc"]["value"] == pytest.approx(roc_auc_score(np.arange(280) < 200, both), abs=1e-5)
    assert of["auroc"]["low"] < of["auroc"]["value"] < of["auroc"]["high"]
    assert of["refused_as_no_lesion"]["value"] == pytest.approx((CLOSE_UPS.scores < 0.2).mean(), abs=1e-5)
    refused = (LESIONS.scores < 0.2) | LESIONS.poor
    assert found["lesions"]["refused"]["value"] == pytest.approx(refused.mean(), abs=1e-5)


def test_groups_show_whom_a_gate_refuses() -> None:
    """A gate that refuses one skin tone alone shows there; a small group is named too few."""
    pictures = tuple(picture(f"p{i}", "nv", skin_tone="1" if i < 30 else "5" if i < 95 else "3") for i in range(100))
    scores = np.where(np.arange(100) < 30, 0.1, 0.9)
    answers = Answers(Predictions(pictures, predictions(100).probabilities), scores, np.zeros(100, bool))
    tones = gate_report(answers, {}, RULES.in_distribution, RESAMPLING)["groups"]["skin_tone"]
    assert tones["1"]["refused"]["value"] == 1.0
    assert tones["5"]["refused"]["value"] == 0.0
    assert tones["5"]["refused"]["high"] > 0.02  # none of 65 is no proof of none
    assert tones["3"] == {"pictures": 5, "too_few": True}


def test_only_the_test_half_is_judged(smoke_config: Config) -> None:
    """Outliers that the gate learnt from are no test of it."""
    made = {half: Image.new("RGB", (64, 64), (10, 10, blue)) for half, blue in (("fit", 250), ("test", 10))}
    outliers = [Outlier("no_lesion", half, half, lambda h=half: made[h]) for half in ("fit", "test")]  # type: ignore[arg-type,misc]
    graph = OnnxClassifier(tiny_graph(colour_weights()))
    found = judge_outliers(graph, outliers, contract_of(smoke_config.input), RULES.quality)
    assert list(found) == ["no_lesion"]
    assert found["no_lesion"].scores.tolist() == pytest.approx([1 / (1 + np.exp(8 * 10 / 255 - 4))], abs=1e-4)
    assert found["no_lesion"].poor.tolist() == [True]


def test_reference_describes_the_arrays() -> None:
    """Quantiles, histograms and covariance can be read back; the file is strict JSON and holds no picture."""
    images = RANDOM.integers(0, 256, (40, 32, 32, 3), np.uint8)
    qualities = [measure(image, 300, 200) for image in images]
    outputs = {
        "probabilities": predictions(40).probabilities.astype(np.float32),
        "embedding": RANDOM.normal(0, 1, (40, 5)).astype(np.float32),
        "in_distribution": RANDOM.random(40).astype(np.float32),
    }
    found = json.loads(
        json.dumps(reference_statistics((qualities, outputs), (qualities, outputs), RULES.certainty), allow_nan=False)
    )
    brightness = np.quantile([quality.brightness for quality in qualities], QUANTILES)
    assert found["training"]["quality"]["brightness"] == pytest.approx(brightness, rel=1e-4)
    covariance = covariance_of(found["training"]["embedding"]["covariance"])
    assert covariance == pytest.approx(np.cov(outputs["embedding"], rowvar=False), abs=1e-4)
    histograms = found["unseen"]["histograms"]
    for shares in (*histograms["probability"].values(), histograms["malignancy"], histograms["in_distribution"]):
        assert len(shares) == len(EDGES) - 1
        assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    assert sum(found["unseen"]["predicted_class_shares"].values()) == pytest.approx(1.0, abs=1e-4)
