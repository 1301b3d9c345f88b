"""Certainty is one number in [0, 1], the same for who chooses its limit and who applies it."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.contract.certainty import CertaintyMeasure, certainty

MEASURES: tuple[CertaintyMeasure, ...] = get_args(CertaintyMeasure)
EVEN, HALVES, SURE = [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("max_probability", [0.25, 0.5, 1.0]),
        ("margin", [0.0, 0.0, 1.0]),
        ("entropy", [0.0, 0.5, 1.0]),
        ("weighted_probability", [0.25, 0.5, 1.0]),  # no weights given: all alike
    ],
)
def test_known_values(measure: CertaintyMeasure, expected: list[float]) -> None:
    """Nothing known, one of two, no doubt at all; a probability of zero is no NaN."""
    assert certainty(np.array([EVEN, HALVES, SURE], np.float32), measure) == pytest.approx(expected, abs=1e-7)


def test_of_a_rare_class_one_is_less_certain() -> None:
    """By hand: 0.6 and 0.3 with weights 0.1 and 0.9 are 0.06 of 0.42 (the rest 0.1 times 0.9), the other way 0.54 of
    0.66. The diagnosis that is judged stays the first of the unweighted ones, here the rare one.
    """
    rows = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1]])
    found = certainty(rows, "weighted_probability", (0.1, 0.9, 0.9))
    assert found == pytest.approx([0.06 / 0.42, 0.54 / 0.66])


@pytest.mark.parametrize("measure", MEASURES)
@given(weights=st.lists(st.floats(0, 1, width=32), min_size=7, max_size=7).filter(lambda w: sum(w) > 1e-3))
def test_in_range_whatever_the_order_of_the_classes(measure: CertaintyMeasure, weights: list[float]) -> None:
    """Always within [0, 1]; which class is the likely one does not matter."""
    row = np.array(weights) / sum(weights)
    found, reversed_ = certainty(np.stack([row, row[::-1]]), measure)
    assert 0 <= found <= 1
    assert found == pytest.approx(reversed_)
