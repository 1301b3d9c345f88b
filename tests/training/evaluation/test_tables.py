"""Reported figures are the right ones, their intervals cover, and what does not exist is null."""

import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import (
    balanced_accuracy_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from tests.training.builders import picture, predictions
from tests.training.conftest import SmokeChain
from training.calibrate import MALIGNANT
from training.config import Config
from training.data import CLASSES
from training.errors import ExportError
from training.evaluation.tables import (
    HEADLINE,
    Predictions,
    Resampling,
    compare_with_network,
    cut,
    evaluate,
    figures,
    share_with_interval,
    table,
)

RESAMPLING = Resampling(seed=0, resamples=200)


def plain(part: Predictions, threshold: float = 0.3) -> dict[str, float]:
    """The figures without resampling."""
    return {name: float(v[0]) for name, v in figures(part, threshold, np.ones((1, len(part.pictures)))).items()}


def test_figures_are_scikit_learns() -> None:
    """Balanced and top-2 accuracy, AUROCs and the figures of a class agree with scikit-learn."""
    part = predictions()
    found, labels, predicted = plain(part), part.labels, part.probabilities.argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["top2_accuracy"] == pytest.approx(top_k_accuracy_score(labels, part.probabilities, k=2))
    macro = roc_auc_score(labels, part.probabilities, multi_class="ovr", average="macro")
    assert found["macro_auroc"] == pytest.approx(macro)
    assert found["malignant_auroc"] == pytest.approx(roc_auc_score(MALIGNANT[labels], part.malignancy))
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted)
    mel = CLASSES.index("mel")
    assert found["precision.mel"] == pytest.approx(precision[mel])
    assert found["sensitivity.mel"] == pytest.approx(recall[mel])
    assert found["f1.mel"] == pytest.approx(f1[mel])


def test_malignancy_decision_by_hand() -> None:
    """At or above the threshold counts as malignant."""
    probabilities = np.zeros((4, 7))
    probabilities[:, CLASSES.index("mel")] = [0.3, 0.1, 0.3, 0.2]
    probabilities[:, CLASSES.index("nv")] = 1 - probabilities.sum(axis=1)
    pictures = (picture("a", "mel"), picture("b", "bcc"), picture("c", "nv"), picture("d", "nv"))
    found = plain(Predictions(pictures, probabilities), threshold=0.3)
    assert (found["malignant_sensitivity"], found["malignant_specificity"]) == (0.5, 0.5)


def test_pictures_of_a_lesion_are_drawn_together() -> None:
    """A resample holds all pictures of a lesion equally often, and as many lesions as there are."""
    part = predictions(60)
    weights = RESAMPLING.weights(part.pictures)
    assert weights.shape == (200, 60)
    assert np.array_equal(weights[:, 0::2], weights[:, 1::2])
    assert set(weights[:, 0::2].sum(axis=1)) == {30}


def test_intervals_cover() -> None:
    """About 95 of 100 intervals hold the true value, though pictures of a lesion are right or wrong together."""
    truth, covered = 0.8, 0
    for seed in range(100):
        part = _all_nevi(np.random.default_rng(seed).random(150) < truth)
        accuracy = table(part, 0.3, Resampling(seed + 1000, 200))["accuracy"]
        covered += accuracy["low"] <= truth <= accuracy["high"]
    assert 88 <= covered <= 100


def test_thousand_resamples_take_seconds() -> None:
    """All figures of 1,300 pictures with 1,000 resamples: well under a minute on one busy core."""
    part = predictions(1300)
    started = time.process_time()
    table(part, 0.3, Resampling(0, 1000))
    assert time.process_time() - started < 20


def test_missing_class_is_null_and_left_out_of_means() -> None:
    """A class without test pictures has no sensitivity or AUROC, and the means go over the others."""
    part = predictions().of(lambda p: p.dx != "df")
    found = table(part, 0.3, RESAMPLING)
    assert found["classes"]["df"]["sensitivity"] == {"value": None, "low": None, "high": None}
    assert found["classes"]["df"]["pictures"] == 0
    others = [found["classes"][code]["sensitivity"]["value"] for code in CLASSES if code != "df"]
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(others), abs=1e-4)


def test_evaluation_is_strict_json(smoke_config: Config) -> None:
    """No NaN reaches the file, even where only one class was tested."""
    part = predictions(40).of(lambda p: p.dx == "nv")
    text = json.dumps(evaluate(_in(part, "generated"), smoke_config, 0.3), allow_nan=False)
    assert "null" in text


def test_small_groups_say_too_few(smoke_config: Config) -> None:
    """A group under 20 pictures gets its size and no figure."""
    pictures = tuple(
        picture(f"p{i}", CLASSES[i % 7], collection="generated", sex="male" if i < 19 else "female", age=float(i))
        for i in range(60)
    )
    part = Predictions(pictures, predictions(60).probabilities)
    groups = evaluate(part, smoke_config, 0.3)["groups"]
    assert groups["sex"]["male"] == {"pictures": 19, "lesions": 19, "malignant": 9, "too_few": True}
    assert groups["sex"]["female"]["balanced_accuracy"]["value"] is not None
    assert list(groups["age"]) == ["0-29", "30-49", "50-69"]


def test_few_malignant_lesions_have_no_sensitivity(smoke_config: Config) -> None:
    """Three malignant lesions of thirty say nothing about how many are found; the specificity is known."""
    pictures = tuple(
        picture(f"p{i}", "mel" if i < 3 else "nv", collection="generated", skin_tone="1") for i in range(30)
    )
    part = Predictions(pictures, predictions(30).probabilities)
    group = evaluate(part, smoke_config, 0.3)["groups"]["skin_tone"]["1"]
    assert group["malignant_sensitivity"] is None
    assert group["malignant_auroc"] is None
    assert group["malignant_specificity"]["value"] is not None


def test_none_of_few_is_no_proof() -> None:
    """The bootstrap would call 0 of 20 certain; the exact interval reaches to 16.8 %."""
    pictures = [picture(f"p{i}", "nv") for i in range(20)]
    everyone = np.ones(20, bool)
    none = share_with_interval(~everyone, everyone, pictures, RESAMPLING)
    assert none == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.16843, abs=1e-4)}
    every = share_with_interval(everyone, everyone, pictures, RESAMPLING)
    assert every["low"] == pytest.approx(1 - 0.16843, abs=1e-4)


def test_every_headline_figure_is_reported(smoke_config: Config) -> None:
    """Each collection and all together have every headline figure with its interval."""
    found = evaluate(_in(predictions(), "generated"), smoke_config, 0.3)
    for columns in (found["collections"]["generated"], found["all"]):
        for name in set(HEADLINE) - {"expected_calibration_error"}:  # its resamples lie higher: noise in every bin
            assert columns[name]["low"] <= columns[name]["value"] <= columns[name]["high"]


def test_figures_of_another_network_are_an_export_error(smoke_config: Config) -> None:
    """A graph that decides differently from the network is never published."""
    graph, network = _in(predictions(seed=1), "generated"), _in(predictions(seed=1, skill=2.5), "generated")
    with pytest.raises(ExportError, match="balanced_accuracy"):
        compare_with_network(graph, network, smoke_config, 0.3)


@pytest.mark.parametrize(("aspect", "size"), [(4 / 3, (600, 450)), (1.0, (450, 450)), (0.75, (338, 450))])
def test_cut_keeps_the_centre(aspect: float, size: tuple[int, int]) -> None:
    """The largest centred part of that shape."""
    picture_of_center = Image.new("RGB", (600, 450))
    picture_of_center.putpixel((300, 225), (255, 0, 0))
    part = cut(picture_of_center, aspect)
    assert part.size == size
    assert part.getpixel((size[0] // 2, size[1] // 2)) == (255, 0, 0)


def test_smoke_evaluation_measures_shapes_and_parity(smoke_chain: SmokeChain) -> None:
    """The published evaluation compares shapes and ways of squaring, and the graph with PyTorch."""
    found = json.loads(smoke_chain.version.read("evaluation.json"))
    assert [(row["shape"], row["resize"]) for row in found["shapes"]] == [
        *((shape, mode) for shape in ("4:3", "3:4") for mode in ("squash", "center_crop", "pad")),
        ("1:1", "any"),
    ]
    assert found["parity"]["largest_probability_difference"] < 1e-4
    for figure in found["parity"]["figures"]["generated"].values():
        assert figure["graph"] == pytest.approx(figure["pytorch"], abs=0.002)


def _all_nevi(right: NDArray[np.bool_]) -> Predictions:
    """Two pictures of each nevus, both called nv where `right`, else mel."""
    called = np.where(right.repeat(2), CLASSES.index("nv"), CLASSES.index("mel"))
    pictures = tuple(picture(f"p{i}", "nv", f"l{i // 2}") for i in range(len(called)))
    return Predictions(pictures, np.eye(7)[called])


def _in(part: Predictions, collection: str) -> Predictions:
    moved = tuple(picture(p.image_id, p.dx, p.lesion_id, collection) for p in part.pictures)
    return Predictions(moved, part.probabilities)
