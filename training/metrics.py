"""Figures of a classifier, each computed for many weightings of the pictures at once.

A weighting is a row of `weights` [R, N]: how often each of N pictures counts. One row of ones is the plain figure, R
rows of a bootstrap are R resamples; so both come from the same few lines and 1,000 resamples cost about a second.
A figure is float64 [R], NaN in the rows where it does not exist (no picture of a class, say).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ECE_BINS = 15


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise quotient, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def mean_over_existing(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    exists = ~np.isnan(values)
    return ratio(np.where(exists, values, 0.0).sum(axis=-1), exists.sum(axis=-1).astype(np.float64))


def share(hits: Bools, among: Bools, weights: Floats) -> Floats:
    """Weighted share of `hits` [N] among the pictures `among` [N]."""
    return ratio(weights @ (hits & among), weights @ among.astype(np.float64))


def class_sensitivities(labels: Ints, predicted: Ints, classes: int, weights: Floats) -> Floats:
    """Share of each class's pictures that got that class: [R, classes]."""
    return np.stack([share(predicted == c, labels == c, weights) for c in range(classes)], axis=-1)


def balanced_accuracy(labels: Ints, predicted: Ints, classes: int, weights: Floats) -> Floats:
    """Mean sensitivity over the classes that occur."""
    return mean_over_existing(class_sensitivities(labels, predicted, classes, weights))


def auroc(positive: Bools, scores: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # where each group of equal scores begins
    if not len(starts):
        return np.full(len(weights), np.nan)
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    wins = (positives * (below + 0.5 * negatives)).sum(axis=1)
    return ratio(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def expected_calibration_error(labels: Ints, probabilities: Floats, weights: Floats) -> Floats:
    """Mean distance of confidence and accuracy of the top class, over 15 equal bins of confidence (Guo et al. 2017)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    members = _bin_members(confidence)
    gaps = weights @ (members * (confidence - correct)[:, None])
    return ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def reliability(labels: Ints, probabilities: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean confidence, accuracy (NaN in empty bins) and number of pictures of each of the 15 bins."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    members = _bin_members(confidence)
    counts = members.sum(axis=0)
    return ratio(confidence @ members, counts), ratio(correct @ members, counts), counts


def _bin_members(confidence: Floats) -> Floats:
    """1 where a picture's confidence falls into the bin, [N, bins]."""
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return np.eye(ECE_BINS)[bins]
