"""The gate that keeps pictures out which the network cannot judge, computed by the graph from its own levels.

Levels: the mean of every channel behind the middle stages and of the feature map (`EfficientNetLite.levels`). The last
layers have learnt to see nothing but what tells seven diagnoses apart; that a picture is of coffee, its texture and
colours tell, which the middle ones still see.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING = 64  # principal components of the levels that are kept
KINDS = ("lesion", "other_diagnosis", "close_up", "no_lesion")
# Strength of the classifiers' regularisation (scikit-learn's C): some 1,700 levels, some hundred pictures of a kind.
_KINDS_C, _DISTANCE_C = 0.001, 1.0
# Where the classifiers stop. Stopped at 1e-3, rounding in the features (another engine, other threads) led them to
# places where a real picture's score differs by 0.015; at 1e-5 by 0.0002, for nine seconds more.
_TOLERANCE = 1e-5
_DISTANCE_SHARE = 0.5  # of the distance's log odds in the score; with 1, more lesions of an unknown clinic are refused
_FARTHEST = 8.0  # standard deviations: one channel that lesions hardly ever fire must not decide alone
_SMALLEST = 1e-3  # keeps the logarithm of a squared length finite

Levels = NDArray[np.float32]


class GateHead(nn.Module):
    """Levels float32 [N, channels] -> embedding [N, 64] and in-distribution score [N] in [0, 1].

    Two judges, whose log odds are added: a linear classifier that has seen what is not wanted (`KINDS`), and the
    distance from the training lesions (length of the whitened principal components, and of what they leave over), which
    also speaks up for what nobody thought of.
    """

    centre: Tensor
    scale: Tensor
    axes: Tensor
    spread: Tensor
    kinds: Tensor
    kinds_bias: Tensor
    distance: Tensor

    def __init__(self, fitted: Mapping[str, Tensor]) -> None:
        """`centre` and `scale` [channels] standardise the levels; `axes` [64, channels] and `spread` [64] whiten them;
        `kinds` [4, channels] and `kinds_bias` [4] tell the kinds apart; `distance` [3]: weights of the logarithms of
        the two squared lengths, and the offset.
        """
        super().__init__()
        for name in ("centre", "scale", "axes", "spread", "kinds", "kinds_bias", "distance"):
            self.register_buffer(name, fitted[name].float())

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Levels [N, channels] -> embedding [N, 64], score [N]."""
        standardised = torch.clamp((levels - self.centre) / self.scale, -_FARTHEST, _FARTHEST)
        along = functional.linear(standardised, self.axes)
        embedding = along / self.spread
        left_over = _squares(standardised) - _squares(along)
        along_part = torch.log(_squares(embedding) + _SMALLEST)
        left_part = torch.log(left_over.clamp(min=0) + _SMALLEST)
        near = along_part * self.distance[0] + left_part * self.distance[1] + self.distance[2]
        kinds = functional.linear(standardised, self.kinds, self.kinds_bias)
        odds = torch.cat([kinds[:, :1] + near, kinds[:, 1:]], dim=1)
        return embedding, functional.softmax(odds, dim=1)[:, 0]

    @staticmethod
    def placeholder(channels: int) -> "GateHead":
        """Takes every picture for a lesion; for tests of what stands around it."""
        return GateHead(
            {
                "centre": torch.zeros(channels),
                "scale": torch.ones(channels),
                "axes": torch.zeros(EMBEDDING, channels),
                "spread": torch.ones(EMBEDDING),
                "kinds": torch.zeros(len(KINDS), channels),
                "kinds_bias": torch.tensor([6.0, 0.0, 0.0, 0.0]),
                "distance": torch.zeros(3),
            }
        )


def _squares(rows: Tensor) -> Tensor:
    """Squared length of each row: [N, columns] -> [N, 1]."""
    return (rows * rows).sum(dim=1, keepdim=True)


def fit_gate(lesions: Levels, stand_ins: Levels, outliers: Mapping[str, Levels]) -> GateHead:
    """Levels [n, channels] of training lesions, of drawn ones that are to be let in with them, and of outliers by kind
    (`KINDS` less the first; a kind may be absent where the data have none, but `no_lesion` can always be drawn).
    """
    centre = lesions.mean(axis=0, dtype=np.float64)
    spread = lesions.std(axis=0, dtype=np.float64)
    scale = spread + 1e-3 * spread.mean() + 1e-6  # a channel that never fires must not shout when it first does

    def standardised(levels: Levels) -> NDArray[np.float64]:
        return np.asarray(np.clip((levels - centre) / scale, -_FARTHEST, _FARTHEST), dtype=np.float64)

    _, lengths, directions = np.linalg.svd(standardised(lesions), full_matrices=False)
    axes = np.zeros((EMBEDDING, lesions.shape[1]))
    axes[: len(directions)] = directions[:EMBEDDING]
    spreads = np.ones(EMBEDDING)
    spreads[: len(lengths)] = np.maximum(lengths[:EMBEDDING] / np.sqrt(len(lesions)), 1e-3)

    def log_lengths(levels: Levels) -> NDArray[np.float64]:
        rows = standardised(levels)
        along = rows @ axes.T
        left_over = np.maximum((rows**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.log(np.stack([((along / spreads) ** 2).sum(axis=1), left_over], axis=1) + _SMALLEST)

    let_in = np.concatenate([lesions, stand_ins])
    kinds, kinds_bias = _fit_kinds(standardised(let_in), {k: standardised(f) for k, f in outliers.items()})
    near = LogisticRegression(C=_DISTANCE_C, tol=_TOLERANCE).fit(
        np.concatenate([log_lengths(let_in), log_lengths(outliers["no_lesion"])]),
        np.repeat([1, 0], [len(let_in), len(outliers["no_lesion"])]),
    )
    return GateHead(
        {
            "centre": torch.tensor(centre),
            "scale": torch.tensor(scale),
            "axes": torch.tensor(axes),
            "spread": torch.tensor(spreads),
            "kinds": torch.tensor(kinds),
            "kinds_bias": torch.tensor(kinds_bias),
            "distance": _DISTANCE_SHARE * torch.tensor([*near.coef_[0], *near.intercept_]),
        }
    )


def _fit_kinds(
    lesions: NDArray[np.float64], outliers: Mapping[str, NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [4, channels] and bias [4] of the classifier of kinds; a kind without pictures is never answered."""
    rows = np.concatenate([lesions, *outliers.values()])
    labels = np.repeat([0, *(KINDS.index(kind) for kind in outliers)], [len(lesions), *map(len, outliers.values())])
    found = LogisticRegression(C=_KINDS_C, tol=_TOLERANCE, max_iter=3000).fit(rows, labels)
    weights, bias = np.zeros((len(KINDS), rows.shape[1])), np.full(len(KINDS), -30.0)
    if len(found.classes_) == 2:  # scikit-learn then keeps one row, for the second class
        weights[found.classes_[1]], bias[found.classes_[0]], bias[found.classes_[1]] = (
            found.coef_[0],
            0,
            found.intercept_[0],
        )
    else:
        weights[found.classes_], bias[found.classes_] = found.coef_, found.intercept_
    return weights, bias
