"""Plots of a finished run: what the model card shows.

Figures are made without pyplot: nothing global, no display. Colours are Okabe and Ito's, told apart by colour-blind
readers; classes also differ in line style.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from model_store.contract.manifest import InDistribution
from training import metrics
from training.calibrate import MALIGNANT
from training.data import CLASSES
from training.evaluation.refusals import Outside
from training.evaluation.report import Report
from training.evaluation.tables import Predictions, confusion
from training.metrics import Bools, Floats
from training.train import EpochLog

FOLDER = "plots"
CONFUSION, ROC, RELIABILITY, TRAINING = "confusion.png", "roc.png", "reliability.png", "training.png"
ROBUSTNESS, SELECTIVE, GATES = "robustness.png", "selective.png", "gates.png"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F7F7F")
_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")
_BLACK = "#000000"
_DOTS_PER_INCH = 110  # keeps every file well below 150 kB


def draw_plots(report: Report, log: Sequence[EpochLog], run: Path, name: str) -> None:
    """Write every plot to `run/plots`; `name` is the natural mix's collection."""
    folder, test = run / FOLDER, report.natural
    folder.mkdir(exist_ok=True)
    what = f"{name} test part, n = {len(test.pictures)}"
    _save(draw_confusion(test, what), folder / CONFUSION)
    _save(draw_roc(test, report.rules.threshold, what), folder / ROC)
    _save(draw_reliability(test, what), folder / RELIABILITY)
    _save(draw_training(log), folder / TRAINING)
    _save(draw_selective(report.found["selective"], what), folder / SELECTIVE)
    _save(draw_robustness(report.found["robustness"], f"{name} test part"), folder / ROBUSTNESS)
    _save(draw_gates(report.lesion_scores, report.outliers, report.rules.in_distribution), folder / GATES)


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
    """What a probability says and how often it comes true, in 15 bins; below, how many pictures each bin holds."""
    figure = Figure(figsize=(9.6, 5.6), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.suptitle(f"Reliability\n{what}")
    columns = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1)).T
    right = test.probabilities.argmax(axis=1) == test.labels
    _draw_reliability(columns[0], test.probabilities.max(axis=1), right, "most probable class", "accuracy (share)")
    _draw_reliability(columns[1], test.malignancy, MALIGNANT[test.labels], "malignancy", "malignant (share)")
    return figure


def _draw_reliability(axes: Sequence[Axes], stated: Floats, happened: Bools, of: str, share_name: str) -> None:
    upper, lower = axes
    probability, share, counts = metrics.reliability(stated, happened)
    error = float(metrics.calibration_error(stated, happened, np.ones((1, len(stated))))[0])
    upper.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8, label="perfectly calibrated")
    filled = counts > 0
    upper.plot(probability[filled], share[filled], "o-", color=_COLOURS[0], label=f"model (ECE {error:.3f})")
    upper.set(ylabel=share_name, ylim=(0, 1.02), title=of)
    upper.legend(loc="upper left", fontsize=8)
    edges = np.linspace(0, 1, metrics.ECE_BINS + 1)
    lower.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=_COLOURS[0], edgecolor="white")
    lower.set(xlabel=f"probability given to {of}", ylabel="pictures", xlim=(0, 1), yscale="symlog")


def draw_selective(found: dict[str, Any], what: str) -> Figure:
    """Error of the first diagnosis among the most certain answers, over their share, for each certainty measure."""
    figure, axes = _axes(6.4, 4.6)
    chosen, curve = found["measure"], found["curve"]
    for index, (measure, errors) in enumerate(curve["error"].items()):
        mark = " (chosen)" if measure == chosen else ""
        label = f"{measure.replace('_', ' ')}{mark}: AURC {found['area_under_risk_coverage'][measure]:.3f}"
        style, width = _STYLES[index], 2.0 if mark else 1.1
        axes.plot(curve["coverage"], errors, style, color=_COLOURS[index], linewidth=width, label=label)
    marks = (
        ("o", "80 % most certain", 0.8, found["error_of_most_certain_80_percent"]["value"]),
        ("s", "shipped limit", found["coverage_at_threshold"]["value"], found["error_at_threshold"]["value"]),
    )
    for marker, of, coverage, error in marks:
        if error is not None:  # of no answer at all
            axes.plot(coverage, error, marker, color=_BLACK, markerfacecolor="none", label=f"{of}: {error:.3f}")
    axes.axhline(found["error"]["value"], color="#BBBBBB", linewidth=0.8)
    axes.set(xlabel="coverage: share of pictures answered", ylabel="wrong first diagnosis (share)", xlim=(0, 1.01))
    axes.set_ylim(bottom=0)
    axes.set_title(f"Error among the most certain answers\n{what}")
    axes.legend(loc="upper left", fontsize=8)
    return figure


def draw_robustness(found: dict[str, Any], what: str) -> Figure:
    """One small plot for each change; the dotted line is the picture as it is."""
    curves = found["curves"]
    figure = Figure(figsize=(11, 2.6 * -(-len(curves) // 4)), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.suptitle(f"Robustness ({what}, n = {found['pictures']} of {found['of']}, weighted to the natural mix)")
    grid = figure.subplots(-(-len(curves) // 4), 4, sharey=True, squeeze=False)
    for axes, (name, curve) in zip(grid.flat, curves.items(), strict=False):
        for index, (figure_name, label) in enumerate(_ROBUSTNESS_FIGURES.items()):
            _draw_levels(axes, curve["levels"], figure_name, label, index)
        axes.axvline(curve["unchanged"], color="#999999", linestyle=":", linewidth=0.9)
        axes.set(title=name, xlabel=curve["unit"], ylim=(0, 1.02))
    for axes in grid[:, 0]:
        axes.set_ylabel("share")
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


_ROBUSTNESS_FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "malignant_auroc": "malignant AUROC",
    "refused": "refused by a gate",
}


def _draw_levels(axes: Axes, levels: Sequence[dict[str, Any]], name: str, label: str, index: int) -> None:
    rows = [(row["level"], *(row[name][part] for part in ("value", "low", "high"))) for row in levels]
    exist = np.array([row for row in rows if None not in row], float).reshape(-1, 4)
    axes.plot(exist[:, 0], exist[:, 1], "o" + _STYLES[index], color=_COLOURS[index], markersize=3, label=label)
    axes.fill_between(exist[:, 0], exist[:, 2], exist[:, 3], color=_COLOURS[index], alpha=0.15, linewidth=0)


def draw_gates(lesions: Floats, outliers: Mapping[str, Outside], limits: InDistribution) -> Figure:
    """How the in-distribution scores of lesions and of each kind of outlier are spread: share below each score."""
    figure, axes = _axes(6.4, 4.6)
    everything = {f"lesions (n = {len(lesions)})": lesions} | {
        f"{kind.replace('_', ' ')} (n = {len(of.scores)})": of.scores for kind, of in outliers.items()
    }
    for index, (label, scores) in enumerate(everything.items()):
        steps = np.arange(1, len(scores) + 1) / len(scores)
        width = 2.2 if index == 0 else 1.3
        colour = _BLACK if index == 0 else _COLOURS[index]
        axes.step(np.sort(scores), steps, _STYLES[index], where="post", color=colour, linewidth=width, label=label)
    for name, limit in (("refused below", limits.refuse_below), ("unusual below", limits.warn_below)):
        axes.axvline(limit, color="#999999", linestyle=":", linewidth=0.9)
        axes.annotate(f"{name} {limit:.2g}", (limit, 0.5), (3, 0), textcoords="offset points", fontsize=7, rotation=90)
    axes.set(xlabel="in-distribution score", ylabel="share of the pictures below", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("What the gate keeps out (test part of all collections)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
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
