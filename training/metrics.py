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
_LEAST_PROBABILITY = 1e-12  # keeps the logarithm finite


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
    return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, weights)


def calibration_error(stated: Floats, happened: Bools, weights: Floats) -> Floats:
    """Mean distance of a stated probability [N] and how often it `happened` [N], over 15 equal bins of `stated`."""
    members = _bin_members(stated)
    gaps = weights @ (members * (stated - happened)[:, None])
    return ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def brier(labels: Ints, probabilities: Floats, weights: Floats) -> Floats:
    """Mean squared distance of all classes' probabilities [N, classes] from what is true: 0 is best, 2 worst."""
    squares = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return mean(squares, weights)


def negative_log_likelihood(labels: Ints, probabilities: Floats, weights: Floats) -> Floats:
    """Mean of -log of the true class's probability, in nats."""
    return mean(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _LEAST_PROBABILITY)), weights)


def mean(values: Floats, weights: Floats) -> Floats:
    """Weighted mean of `values` [N]."""
    return ratio(weights @ values, weights.sum(axis=1))


def selective_risk(wrong: Bools, certainty: Floats, weights: Floats, coverages: Floats) -> Floats:
    """Share of wrong answers among the most certain ones that make up each of `coverages`: [R, coverages]."""
    order = np.argsort(-certainty, kind="stable")
    answered = np.cumsum(weights[:, order], axis=1)
    errors = np.cumsum(weights[:, order] * wrong[order], axis=1)
    wanted = answered[:, -1:] * coverages
    last = np.stack([np.searchsorted(a, w - 1e-9) for a, w in zip(answered, wanted, strict=True)])
    last = np.minimum(last, len(order) - 1)
    return ratio(np.take_along_axis(errors, last, axis=1), np.take_along_axis(answered, last, axis=1))


def reliability(stated: Floats, happened: Bools) -> tuple[Floats, Floats, Floats]:
    """Mean stated probability, share that happened (NaN in empty bins) and number of pictures of the 15 bins."""
    members = _bin_members(stated)
    counts = members.sum(axis=0)
    return ratio(stated @ members, counts), ratio(happened @ members, counts), counts


def _bin_members(stated: Floats) -> Floats:
    """1 where a picture's probability falls into the bin, [N, bins]."""
    bins = np.minimum((stated * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return np.eye(ECE_BINS)[bins]
