"""Features made ready for a head that needs an intercept, whether its family has a bias or not. Knows no labels.

Of labels at once, and of numbers, the mean must be learned beside what tells texts apart. Where the family's head has a
bias, that is the intercept. The heads of causal families have none: there the combination of the features that is
nearest to 1 for every text stands for it, and is not penalised either.

Shapes: N texts, D width, R = min(N, D), C outputs.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
STRENGTHS = np.logspace(-5, 5, 41)  # of a ridge penalty, times the mean of the squared singular values


class HeadWeights(NamedTuple):
    """w · c + bias; the bias is 0 where it is None."""

    w: Tensor  # (C, D) float32
    bias: Tensor | None = None  # (C,) float32

    def times(self, factor: float) -> "HeadWeights":
        """The head whose outputs are `factor` times these; the same bits for 1."""
        return HeadWeights(self.w * factor, None if self.bias is None else self.bias * factor)


class Centred:
    """Features (N, D), divided by their deviations, as `constant` (N,) times their mean, plus `varying` (N, D)."""

    def __init__(self, features: NDArray[np.float32], *, bias: bool) -> None:
        """`bias`: whether the head may have one."""
        deviations = features.std(0, dtype=np.float64)
        deviations[deviations <= 1e-6 * np.abs(features).max(initial=1e-30)] = 1.0  # a constant feature
        scaled = features / deviations
        self._bias, self._deviations, self._mean = bias, deviations, scaled.mean(0)
        self._one: Floats = np.zeros(len(self._mean)) if bias else nearest_to_one(scaled)  # (D,)
        self.constant: Floats = np.ones(len(scaled)) if bias else scaled @ self._one
        self.varying: Floats = scaled - np.outer(self.constant, self._mean)

    def head(self, coefficients: Floats, intercepts: Floats) -> HeadWeights:
        """The head of the features themselves, from coefficients (C, D) of `varying` and intercepts (C,) of
        `constant`."""
        intercepts = intercepts - coefficients @ self._mean
        if self._bias:
            return HeadWeights(_tensor(coefficients / self._deviations), _tensor(intercepts))
        return HeadWeights(_tensor((coefficients + np.outer(intercepts, self._one)) / self._deviations))


def nearest_to_one(features: Floats) -> Floats:
    """(D,) a combination of features (N, D) that is near 1 for every text, 1 in the mean, by ridge regression."""
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    strength = least_error_left_out(np.ones(len(features)), left, singular)
    found: Floats = right.T @ (singular / (singular**2 + strength) * left.sum(0))
    mean = float((features @ found).mean())
    return found / mean if mean > 0 else found


def least_error_left_out(wanted: Floats, left: Floats, singular: Floats, constant: Floats | None = None) -> float:
    """The ridge penalty λ of least squared error when each text is predicted by a fit to all others.

    That error is (y - ŷ) / (1 - h) with h the diagonal of the hat matrix (Allen's PRESS, 1974). `left` (N, R) and
    `singular` (R,) are of the penalised columns, to which the unpenalised `constant` (N,) is orthogonal.
    """
    squares, along = singular**2, left.T @ wanted
    plain, leverage = np.zeros(len(wanted)), np.zeros(len(wanted))
    if constant is not None:
        plain = constant * (constant @ wanted / (constant @ constant))
        leverage = constant**2 / (constant @ constant)
    best = (np.inf, 0.0)
    for strength in STRENGTHS * max(float(squares.mean()), np.finfo(np.float64).tiny):
        kept = squares / (squares + strength)
        errors = (wanted - plain - left @ (kept * along)) / np.maximum(1 - leverage - left**2 @ kept, 1e-9)
        best = min(best, (float(errors @ errors), float(strength)))
    return best[1]


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
