"""The gate lets lesions in, keeps out what it was shown and what nobody thought of, and its numbers make sense."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.gates import EMBEDDING, GateHead, fit_gate

CHANNELS = 1280
BASIS = np.random.default_rng(1).normal(size=(100, CHANNELS)).astype(np.float32)


def levels(n: int, seed: int, shift: float = 0.0, wild: float = 0.1) -> NDArray[np.float32]:
    """Points near a 100-dimensional plane, moved along its first direction; `wild`: distance from the plane."""
    random = np.random.default_rng(seed)
    along = random.normal(size=(n, len(BASIS))).astype(np.float32)
    along[:, 0] += shift
    return along @ BASIS + wild * random.normal(size=(n, CHANNELS)).astype(np.float32)


def fitted() -> GateHead:
    """Lesions around the origin, three kinds of outliers elsewhere."""
    kinds = {"other_diagnosis": levels(150, 3, 6), "close_up": levels(150, 4, -9)}
    return fit_gate(levels(600, 1), levels(20, 2), kinds | {"no_lesion": levels(150, 5, 0, wild=30.0)})


def scores(gate: GateHead, of: NDArray[np.float32]) -> NDArray[np.float32]:
    """In-distribution scores."""
    return gate(torch.from_numpy(of))[1].numpy()


def test_lesions_score_higher_than_each_kind_it_has_seen() -> None:
    """On pictures that it was not fitted on."""
    gate = fitted()
    lesions = scores(gate, levels(200, 11))
    for outliers in (levels(200, 12, 6), levels(200, 13, -9), levels(200, 14, wild=30.0)):
        assert np.median(scores(gate, outliers)) < np.quantile(lesions, 0.05)


def test_what_nobody_thought_of_is_kept_out_by_its_distance() -> None:
    """Far away in a direction in which no outlier of the fit lay."""
    gate = fitted()
    strange = levels(200, 21)
    strange += 40 * np.random.default_rng(9).normal(size=(1, CHANNELS)).astype(np.float32)
    assert np.quantile(scores(gate, strange), 0.95) < np.quantile(scores(gate, levels(200, 11)), 0.05)


def test_embedding_of_lesions_is_white() -> None:
    """Mean 0 and variance 1 in every component, uncorrelated."""
    embedding = fitted()(torch.from_numpy(levels(600, 1)))[0].numpy()
    assert embedding.shape == (600, EMBEDDING)
    np.testing.assert_allclose(embedding.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(embedding, rowvar=False), np.eye(EMBEDDING), atol=2e-2)


def test_scores_are_probabilities_even_for_absurd_levels() -> None:
    """Zeros and huge numbers give a finite score in [0, 1]."""
    absurd = np.stack([np.zeros(CHANNELS), np.full(CHANNELS, 1e6), np.full(CHANNELS, -1e6)]).astype(np.float32)
    gate = fitted()
    found, lesions = scores(gate, absurd), scores(gate, levels(200, 11))
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[1:] < 0.02 * lesions.min()).all()


def test_kinds_without_pictures_are_no_obstacle() -> None:
    """A hospital's own data may have neither close-ups nor other diagnoses."""
    gate = fit_gate(levels(600, 1), levels(20, 2), {"no_lesion": levels(150, 5, wild=30.0)})
    lesions, outside = scores(gate, levels(200, 11)), scores(gate, levels(200, 14, wild=30.0))
    assert np.median(outside) < np.quantile(lesions, 0.05)


def test_the_fit_ends_where_searching_on_leads_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped early, it would depend on how the levels were rounded: a release made again would score otherwise."""
    probes = np.concatenate([levels(200, 11), levels(200, 12, 3), levels(200, 13, -4)])
    kinds = {"other_diagnosis": levels(150, 3, 3), "close_up": levels(150, 4, -4)}
    outliers = kinds | {"no_lesion": levels(150, 5, wild=2.0)}

    def fit() -> NDArray[np.float32]:
        return scores(fit_gate(levels(600, 1), levels(20, 2), outliers), probes)

    found = fit()
    monkeypatch.setattr("training.gates._TOLERANCE", 1e-8)
    np.testing.assert_allclose(found, fit(), atol=5e-4)
