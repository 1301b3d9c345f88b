"""How sure a network is of its answer, in one number: the same for choosing the limit and for applying it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CertaintyMeasure = Literal["max_probability", "entropy", "margin", "weighted_probability"]


def certainty(
    probabilities: NDArray[np.floating], measure: CertaintyMeasure, class_weights: Sequence[float] = ()
) -> NDArray[np.float64]:
    """Probabilities [N, classes] -> float64 [N] in [0, 1], higher is more certain.

    `max_probability` is that of the first class, `margin` its lead over the second, `entropy` is 1 - H / log(classes).
    `weighted_probability` is that of the same first class after each probability was multiplied by the weight of its
    class [classes] (none: all alike) and the sum made 1 again: a rare diagnosis is wrong more often than a frequent
    one of the same probability where the probabilities are for a class mix in which it is less rare.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if measure == "weighted_probability":
        weighted = rows * np.asarray(class_weights or np.ones(rows.shape[1]))
        first = np.take_along_axis(weighted, rows.argmax(axis=1)[:, None], axis=1)[:, 0]
        found = first / weighted.sum(axis=1)
    elif measure == "entropy":
        logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)  # 0 log 0 = 0
        found = 1 + (rows * logs).sum(axis=1) / np.log(rows.shape[1])
    else:
        second, first = np.partition(rows, -2, axis=1)[:, -2:].T
        found = first - second if measure == "margin" else first
    return np.asarray(np.clip(found, 0.0, 1.0))
