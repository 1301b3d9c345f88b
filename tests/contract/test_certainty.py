"""Certainty is one number in [0, 1], the same for who chooses its limit and who applies it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.contract.certainty import CertaintyMeasure, certainty

MEASURES: tuple[CertaintyMeasure, ...] = ("max_probability", "entropy", "margin")
EVEN, HALVES, SURE = [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("max_probability", [0.25, 0.5, 1.0]), ("margin", [0.0, 0.0, 1.0]), ("entropy", [0.0, 0.5, 1.0])],
)
def test_known_values(measure: CertaintyMeasure, expected: list[float]) -> None:
    """Nothing known, one of two, no doubt at all; a probability of zero is no NaN."""
    assert certainty(np.array([EVEN, HALVES, SURE], np.float32), measure) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
@given(weights=st.lists(st.floats(0, 1, width=32), min_size=7, max_size=7).filter(lambda w: sum(w) > 1e-3))
def test_in_range_whatever_the_order_of_the_classes(measure: CertaintyMeasure, weights: list[float]) -> None:
    """Always within [0, 1]; which class is the likely one does not matter."""
    row = np.array(weights) / sum(weights)
    found, reversed_ = certainty(np.stack([row, row[::-1]]), measure)
    assert 0 <= found <= 1
    assert found == pytest.approx(reversed_)
