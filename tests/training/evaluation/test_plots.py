"""Plots are labelled, and drawn without a display."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from model_store.contract.manifest import InDistribution
from tests.training.builders import RULES, predictions
from training.evaluation.plots import (
    draw_confusion,
    draw_gates,
    draw_reliability,
    draw_robustness,
    draw_roc,
    draw_selective,
    draw_training,
)
from training.evaluation.refusals import Outside
from training.evaluation.selective import selective_report
from training.evaluation.tables import Resampling
from training.train import EpochLog

LOG = [EpochLog(n, 32 if n < 3 else 64, 1e-3, 2 / n, 2.1 / n, 0.1 * n, 50.0, 1.0) for n in range(1, 6)]
FIGURES = {
    "confusion": draw_confusion(predictions(), "clinic test part, n = 300"),
    "roc": draw_roc(predictions(), 0.3, "clinic test part, n = 300"),
    "reliability": draw_reliability(predictions(), "clinic test part, n = 300"),
    "training": draw_training(LOG),
    "selective": draw_selective(
        selective_report(predictions(), RULES.certainty, Resampling(0, 20)), "clinic test part, n = 300"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled(name: str) -> None:
    """Every axis says what it shows; the test plots say of how many pictures."""
    figure: Figure = FIGURES[name]
    axes = [a for a in figure.axes if a.get_label() != "<colorbar>"]
    assert all(a.get_ylabel() for a in axes)
    assert axes[-1].get_xlabel()
    titles = " ".join([figure.get_suptitle(), *(a.get_title() for a in axes)])
    assert titles
    assert name == "training" or "n = 300" in titles


def test_roc_marks_the_operating_point() -> None:
    """The shipped threshold stands on the malignant curve, with its sensitivity and specificity."""
    labels = [text.get_text() for text in FIGURES["roc"].axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert any(label.startswith("threshold 0.300: sensitivity") for label in labels)
    assert any(label.startswith("malignant: AUROC") for label in labels)


def test_training_curves_mark_resolution_changes() -> None:
    """A dotted line and the number of pixels, where a stage begins."""
    assert [text.get_text() for text in FIGURES["training"].axes[0].texts] == ["32 px", "64 px"]


def test_classes_without_pictures_have_no_curve() -> None:
    """A class that the test part lacks is left out instead of drawn wrong."""
    part = predictions().of(lambda p: p.dx != "df")
    labels = [t.get_text() for t in draw_roc(part, 0.3, "x").axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert not any(label.startswith("df") for label in labels)


def test_robustness_has_a_plot_for_each_change() -> None:
    """Small multiples named by the change, with the level of the picture as it is marked; holes are left out."""
    figure = draw_robustness({"pictures": 9, "of": 20, "curves": {"blur": _curve(0.9), "ink": _curve(None)}}, "clinic")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["blur", "ink"]
    assert len(shown[0].lines[0].get_xdata()) == 2  # type: ignore[arg-type]
    assert len(shown[1].lines[0].get_xdata()) == 1  # type: ignore[arg-type]


def test_gates_show_every_kind_and_both_limits() -> None:
    """One curve for the lesions, one for each kind of outlier."""
    random = np.random.default_rng(0)
    outliers = {"close_up": Outside(random.random(30), np.zeros(30, bool))}
    figure = draw_gates(random.random(50), outliers, InDistribution(refuse_below=0.2, warn_below=0.4))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["lesions (n = 50)", "close up (n = 30)"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["refused below 0.2", "unusual below 0.4"]


def _curve(value: float | None) -> dict:
    """Two levels; the second has `value`, or no figure."""
    of = {"value": 0.8, "low": 0.7, "high": 0.9}
    names = ("balanced_accuracy", "malignant_auroc", "refused")
    levels = [
        {"level": 0} | dict.fromkeys(names, of),
        {"level": 1} | dict.fromkeys(names, of if value else dict.fromkeys(of)),
    ]
    return {"unit": "layers", "unchanged": 0, "levels": levels}
