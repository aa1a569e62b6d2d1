"""Errors and correlations of predicted numbers, with intervals over items. Knows numbers, not what they count.

Shapes: S seeds, M test items. None of the figures is a mean over items, so that they are linearised (the infinitesimal
jackknife; Efron, 1982). Their intervals are those of a mean in a scale in which the figure is nearly normal, carried
back: the logarithm for a variance or a ratio of two, Fisher's z for a correlation.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.errors import ChainruleError
from chainrule.uncertainty.intervals import Estimate
from chainrule.uncertainty.tables import Table, by_group, mean_error

Floats = NDArray[np.float64]
_MOST = 1 - 1e-12  # a correlation of 1 has no finite z


def rmse(truth: ArrayLike, predictions: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """Root of the mean squared error, in the numbers' unit: `truth` (M,), `predictions` (S, M) or (M,).

    Of several seeds the mean of theirs. 0 with the interval 0 to 0 where every prediction is exact.
    """
    actual, predicted = _checked(truth, predictions)
    squares = (predicted - actual) ** 2
    root = np.sqrt(squares.mean(axis=1, keepdims=True))  # (S, 1)
    parts = root + np.divide(squares - root**2, 2 * root, out=np.zeros_like(squares), where=root > 0)
    return _in_scale(parts, groups, math.log, math.exp, lambda value: 1 / value)


def r_squared(truth: ArrayLike, predictions: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """1 - mean squared error / variance of the truth: 1 is exact, 0 as good as the mean of these items; shapes as of
    `rmse`."""
    return r_squared_of_parts(r_squared_parts(truth, predictions), groups)


def r_squared_of_parts(parts: Table, groups: Sequence[str] | None = None) -> Estimate:
    """The mean of `r_squared_parts` (S, M) with its interval."""
    least = np.finfo(np.float64).tiny  # of 1 - R²: an exact prediction has no logarithm
    scale = lambda r: -math.log(max(1 - r, least))  # noqa: E731
    return _in_scale(parts, groups, scale, lambda z: 1 - math.exp(-z), lambda r: 1 / max(1 - r, least))


def spearman(truth: ArrayLike, predictions: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """Spearman's rank correlation, ties at their mean rank; shapes as of `rmse`. 0 where one of both is constant."""
    actual, predicted = _checked(truth, predictions)
    parts = np.stack([_rank_correlation_parts(actual, one) for one in predicted])
    z = lambda r: math.atanh(max(-_MOST, min(_MOST, r)))  # noqa: E731
    return _in_scale(parts, groups, z, math.tanh, lambda r: 1 / max(1 - r**2, 1e-12))


def r_squared_parts(truth: ArrayLike, predictions: ArrayLike) -> Table:
    """(S, M) whose means over items are the R² of each seed, plus each item's influence on it."""
    actual, predicted = _checked(truth, predictions)
    squares, around = (predicted - actual) ** 2, (actual - actual.mean()) ** 2
    variance, errors = around.mean(), squares.mean(axis=1, keepdims=True)  # (S, 1)
    if variance == 0:
        raise ChainruleError("r_squared: wanted items whose numbers differ, got one number: take more items")
    parts: Table = 1 - errors / variance - (squares - errors) / variance
    return parts + errors * (around - variance) / variance**2


def _rank_correlation_parts(x: Floats, y: Floats) -> Floats:
    """(M,) Spearman's correlation plus the influence of each item: on the covariance and variances of the ranks, by
    its own ranks and by the ranks of the others, which it moves."""
    M = len(x)
    ranks = _mid_ranks(x) / M - 0.5, _mid_ranks(y) / M - 0.5  # near the distribution functions, centred
    (u, v), (of_x, of_y) = ranks, (x, y)
    covariance, variances = float(u @ v) / M, (float(u @ u) / M, float(v @ v) / M)
    if not all(variances):
        return np.zeros(M)
    d_covariance = u * v + _moved(of_x, v) + _moved(of_y, u)
    d_variances = u * u + 2 * _moved(of_x, u), v * v + 2 * _moved(of_y, v)
    value = covariance / math.sqrt(variances[0] * variances[1])
    influence = d_covariance / math.sqrt(variances[0] * variances[1])
    influence = influence - value / 2 * (d_variances[0] / variances[0] + d_variances[1] / variances[1])
    return value + influence - influence.mean()


def _mid_ranks(values: Floats) -> Floats:
    """(M,) how many values are below each, ties counting one half."""
    order = np.sort(values)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / 2


def _moved(values: Floats, weights: Floats) -> Floats:
    """(M,) of each item k the mean over items i of weights_i, where values_i is above values_k; ties count one half."""
    order = np.argsort(values, kind="stable")
    total = np.concatenate(([0.0], np.cumsum(weights[order])))
    ascending = values[order]
    below = total[np.searchsorted(ascending, values, "left")] + total[np.searchsorted(ascending, values, "right")]
    return (total[-1] - below / 2) / len(values)


def _in_scale(
    parts: Table,
    groups: Sequence[str] | None,
    there: Callable[[float], float],
    back: Callable[[float], float],
    slope: Callable[[float], float],
) -> Estimate:
    """The mean of (S, M) with the interval that is symmetric in another scale, of `slope` at the mean."""
    table = by_group(parts, groups)
    value, error = float(table.mean()), mean_error(table)
    if not error.varies:
        return Estimate(value, value, value)
    half = error.half_width() * slope(value)
    return Estimate(value, back(there(value) - half), back(there(value) + half))


def _checked(truth: ArrayLike, predictions: ArrayLike) -> tuple[Floats, Floats]:
    actual, predicted = np.asarray(truth, np.float64), np.atleast_2d(np.asarray(predictions, np.float64))
    if actual.ndim != 1 or actual.size == 0 or predicted.ndim != 2 or predicted.shape[1:] != actual.shape:
        raise ChainruleError(f"wanted predictions (S, M) of numbers (M,), got {predicted.shape} of {actual.shape}")
    return actual, predicted
