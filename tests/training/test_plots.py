"""Plots are labelled, and drawn without a display."""

import pytest
from matplotlib.figure import Figure

from tests.training.builders import predictions
from training.plots import draw_confusion, draw_reliability, draw_roc, draw_training
from training.train import EpochLog

LOG = [EpochLog(n, 32 if n < 3 else 64, 1e-3, 2 / n, 2.1 / n, 0.1 * n, 50.0, 1.0) for n in range(1, 6)]
FIGURES = {
    "confusion": draw_confusion(predictions(), "clinic test part, n = 300"),
    "roc": draw_roc(predictions(), 0.3, "clinic test part, n = 300"),
    "reliability": draw_reliability(predictions(), "clinic test part, n = 300"),
    "training": draw_training(LOG),
}


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled(name: str) -> None:
    """Every axis says what it shows; the test plots say of how many pictures."""
    figure: Figure = FIGURES[name]
    axes = [a for a in figure.axes if a.get_label() != "<colorbar>"]
    assert all(a.get_ylabel() for a in axes)
    assert axes[-1].get_xlabel()
    titles = " ".join(a.get_title() for a in axes)
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
