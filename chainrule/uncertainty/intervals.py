"""Intervals of accuracy and macro-F1. Knows which answers were right, not what was asked."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from chainrule.errors import ChainruleError
from chainrule.uncertainty.tables import SeedVariance, Table, by_group, mean_error, table_of


class Estimate(NamedTuple):
    """A figure in 0..1 with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(right: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion, `right` of `n` (E. B. Wilson, 1927).

    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    if not 0 <= right <= n or n < 1:
        raise ChainruleError(f"wilson: wanted 0 <= right <= n and n >= 1, got right = {right}, n = {n}")
    return _score_interval(right / n, n, NormalDist().inv_cdf((1 + level) / 2))


def accuracy(
    correct: ArrayLike, groups: Sequence[str] | None = None, seed_variance: SeedVariance | None = None
) -> Estimate:
    """Of S seeds on the same M items: `correct` (S, M), or (M,), is 1 where the answer was right.

    One seed is one fixed predictor: Wilson's interval. Several: Wilson's for the number of independent items that would
    give the error of the mean over these seeds and items. With `groups`, one name an item, groups replace items.
    `seed_variance`: from `seed_variances`, where other tables tell more about it.
    Raises ChainruleError where there are no items, or a single group.
    """
    table = table_of(correct, "correct")
    if len(table) == 1 and groups is None and seed_variance is None:
        right, n = float(table.sum()), table.shape[1]
        return Estimate(right / n, *wilson(right, n))
    return mean_in_unit_interval(by_group(table, groups), seed_variance)


def macro_f1(truth: ArrayLike, predictions: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """The mean over the classes of `truth` (M,) of F1, the mean over the seeds of `predictions` (S, M) or (M,).

    F1 is no mean over items, so it is linearised (the infinitesimal jackknife): the interval is that of a mean over
    items of each one's influence on F1, computed as in `accuracy`; so it is approximate.
    """
    actual, predicted = np.asarray(truth), np.atleast_2d(np.asarray(predictions))
    if actual.ndim != 1 or actual.size == 0 or predicted.shape[1:] != actual.shape:
        raise ChainruleError(
            f"macro_f1: wanted (S, M) predictions of (M,) labels, got {predicted.shape} of {actual.shape}"
        )
    classes = np.unique(actual)
    parts = np.zeros(predicted.shape)
    for label in classes:
        is_label, predicts_label = actual == label, predicted == label  # (M,), (S, M)
        both = is_label & predicts_label
        share = is_label.mean() + predicts_label.mean(axis=1, keepdims=True)  # (S, 1)
        f1 = 2 * both.mean(axis=1, keepdims=True) / share
        parts += f1 + (2.0 * both - f1 * (is_label.astype(float) + predicts_label)) / share
    return mean_in_unit_interval(by_group(parts / len(classes), groups))


def mean_in_unit_interval(table: Table, seed_variance: SeedVariance | None = None) -> Estimate:
    """Wilson's interval for as many items as have the mean's half width q: n = p(1 - p) / q², at a quantile of 1."""
    p, error = float(table.mean()), mean_error(table, seed_variance)
    if not error.varies:
        return Estimate(p, *wilson(p * table.shape[1], table.shape[1]))
    return Estimate(p, *_score_interval(p, p * (1 - p) / error.half_width() ** 2, quantile=1.0))


def _score_interval(p: float, n: float, quantile: float) -> tuple[float, float]:
    """Where |p - proportion| is at most `quantile` standard errors at that proportion."""
    centre = p + quantile**2 / (2 * n)
    half = quantile * ((p * (1 - p) + quantile**2 / (4 * n)) / n) ** 0.5
    scale = 1 + quantile**2 / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return 0.0 if p == 0 else low, 1.0 if p == 1 else high  # exact at the ends, whatever the rounding
