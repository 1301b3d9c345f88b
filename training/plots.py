"""Plots of a finished run: confusion matrix, ROC curves, reliability, training curves.

Figures are made without pyplot: nothing global, no display. Colours are Okabe and Ito's, told apart by colour-blind
readers; classes also differ in line style.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from training import metrics
from training.calibrate import MALIGNANT
from training.data import CLASSES
from training.evaluate import Predictions, confusion
from training.metrics import Bools, Floats
from training.train import EpochLog

FOLDER = "plots"
CONFUSION, ROC, RELIABILITY, TRAINING = "confusion.png", "roc.png", "reliability.png", "training.png"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F7F7F")
_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")
_BLACK = "#000000"
_DOTS_PER_INCH = 110  # keeps every file well below 150 kB


def draw_plots(test: Predictions, threshold: float, log: Sequence[EpochLog], run: Path, name: str) -> None:
    """Write the four plots to `run/plots`; `test` is the natural-mix test part, `name` its collection."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    what = f"{name} test part, n = {len(test.pictures)}"
    _save(draw_confusion(test, what), folder / CONFUSION)
    _save(draw_roc(test, threshold, what), folder / ROC)
    _save(draw_reliability(test, what), folder / RELIABILITY)
    _save(draw_training(log), folder / TRAINING)


def draw_confusion(test: Predictions, what: str) -> Figure:
    """Rows are true classes; colour and percentage are shares of the row, the count stands below."""
    counts = confusion(test)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(6.4, 5.8)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{shares[row, column]:.0%}\n{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), [f"{c} ({n})" for c, n in zip(CLASSES, counts.sum(axis=1), strict=True)])
    axes.set(xlabel="predicted class", ylabel="true class (pictures)", title=f"Confusion matrix\n{what}")
    figure.colorbar(shown, ax=axes, label="share of the true class", fraction=0.046)
    return figure


def draw_roc(test: Predictions, threshold: float, what: str) -> Figure:
    """One curve for each class against the rest, and malignant against benign with the shipped operating point."""
    figure, axes = _axes(6.4, 5.8)
    axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8)
    for index, code in enumerate(CLASSES):
        is_class = test.labels == index
        _draw_curve(axes, is_class, test.probabilities[:, index], code, _COLOURS[index], _STYLES[index], 1.3)
    malignant = MALIGNANT[test.labels]
    _draw_curve(axes, malignant, test.malignancy, "malignant", _BLACK, "-", 2.2)
    flagged = test.malignancy >= threshold
    if malignant.any() and not malignant.all():
        false_alarms, found = float(flagged[~malignant].mean()), float(flagged[malignant].mean())
        label = f"threshold {threshold:.3f}: sensitivity {found:.2f}, specificity {1 - false_alarms:.2f}"
        axes.plot(false_alarms, found, "o", color=_BLACK, markersize=8, markerfacecolor="white", label=label)
    axes.set(xlabel="1 - specificity (share)", ylabel="sensitivity (share)", title=f"ROC curves\n{what}")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def draw_reliability(test: Predictions, what: str) -> Figure:
    """Accuracy over confidence of the top class in 15 bins, and how many pictures each bin holds."""
    confidence, accuracy, counts = metrics.reliability(test.labels, test.probabilities)
    error = float(
        metrics.expected_calibration_error(test.labels, test.probabilities, np.ones((1, len(test.labels))))[0]
    )
    figure = Figure(figsize=(6.4, 6.0), dpi=_DOTS_PER_INCH, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8, label="perfectly calibrated")
    filled = counts > 0
    upper.plot(confidence[filled], accuracy[filled], "o-", color=_COLOURS[0], label=f"model (ECE {error:.3f})")
    upper.set(ylabel="accuracy (share)", title=f"Reliability of the most probable class\n{what}", ylim=(0, 1.02))
    upper.legend(loc="upper left", fontsize=8)
    edges = np.linspace(0, 1, metrics.ECE_BINS + 1)
    lower.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=_COLOURS[0], edgecolor="white")
    lower.set(xlabel="probability given to the most probable class", ylabel="pictures", xlim=(0, 1))
    return figure


def draw_training(log: Sequence[EpochLog]) -> Figure:
    """Losses and validation balanced accuracy by epoch; a dotted line where the resolution changes."""
    epochs = [line.epoch for line in log]
    figure = Figure(figsize=(8.4, 3.8), dpi=_DOTS_PER_INCH, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [line.train_loss for line in log], "o-", color=_COLOURS[0], label="training")
    left.plot(epochs, [line.validation_loss for line in log], "s--", color=_COLOURS[4], label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Loss, logit-adjusted")
    left.legend(fontsize=8)
    accuracies = [line.validation_balanced_accuracy for line in log]
    right.plot(epochs, accuracies, "s--", color=_COLOURS[4])
    right.set(xlabel="epoch", ylabel="balanced accuracy (share)", title="Validation, all collections")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        _mark_resolutions(axes, log)
    return figure


def _mark_resolutions(axes: Axes, log: Sequence[EpochLog]) -> None:
    for before, line in zip((None, *log), log, strict=False):
        if before is None or before.pixels != line.pixels:
            start = line.epoch - 0.5
            axes.axvline(start, color="#999999", linestyle=":", linewidth=0.9)
            axes.annotate(
                f"{line.pixels} px",
                (start, 0.01),
                xycoords=("data", "axes fraction"),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                color="#555555",
            )


def _draw_curve(axes: Axes, positive: Bools, scores: Floats, name: str, colour: str, style: str, width: float) -> None:
    """Nothing where a class has no picture."""
    if not positive.any() or positive.all():
        return
    false_positive_rate, true_positive_rate, _ = roc_curve(positive, scores)
    area = float(metrics.auroc(positive, scores, np.ones((1, len(scores))))[0])
    label = f"{name}: AUROC {area:.3f} (n = {int(positive.sum())})"
    axes.plot(false_positive_rate, true_positive_rate, style, color=colour, linewidth=width, label=label)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")
    return figure, figure.subplots()


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Software": None})  # the same data gives the same bytes
