"""Tables of S seeds by M items: the error of their mean, and groups instead of items. Knows numbers alone.

Shapes: S seeds, M test items, G groups of items (one author's reviews, one document's sentences).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.errors import ChainruleError

Table = NDArray[np.float64]

VALUES = 32  # of each mean square; with 1 degree of freedom t is right to 1e-3, with 4 to 1e-6


class MeanError(NamedTuple):
    """The distribution of a mean's error: a mixture of normals, over the variances that few seeds leave possible."""

    deviations: Table  # (K,) standard errors; all 0 where nothing varied
    weights: Table  # (K,), sum 1

    @property
    def varies(self) -> bool:
        return bool(self.deviations.any())

    def beyond(self, distance: float) -> float:
        """The probability of an error of at least `distance`, on either side."""
        from scipy.special import ndtr

        return min(float(2 * ndtr(-distance / self.deviations) @ self.weights), 1.0)

    def half_width(self) -> float:
        """The distance that the error exceeds with probability .05."""
        distance = 1.9 * float(self.deviations.min())  # short of the solution, were this the only one
        for _ in range(100):  # Newton's steps; `beyond` falls and is convex, so each stays short of the solution
            density = 2 * np.exp(-((distance / self.deviations) ** 2) / 2) / (self.deviations * (2 * np.pi) ** 0.5)
            step = (self.beyond(distance) - 0.05) / float(density @ self.weights)
            distance += step
            if step <= 1e-9 * distance:
                break
        return distance


def table_of(values: ArrayLike, what: str) -> Table:
    """(S, M) as floats, or (M,) for one seed; `what` names it in the error."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2 or table.size == 0:
        raise ChainruleError(f"{what}: wanted a table of seeds by items, (S, M), got the shape {np.shape(values)}")
    return table


def group_sums(values: Table, groups: Sequence[str] | None) -> Table:
    """The last axis summed within each group, (..., M) -> (..., G); without groups each item is a group."""
    if groups is None:
        return values
    if len(groups) != values.shape[-1]:
        raise ChainruleError(f"groups: wanted one for each of {values.shape[-1]} items, got {len(groups)}")
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(group_of, kind="stable")
    starts = np.flatnonzero(np.diff(group_of[order], prepend=-1))
    return np.add.reduceat(values[..., order], starts, axis=-1)


def by_group(table: Table, groups: Sequence[str] | None) -> Table:
    """(S, M) -> (S, G) with the same means of the seeds: the linear part of a mean over groups of unequal sizes."""
    if groups is None:
        return table
    seed_means = table.mean(axis=1, keepdims=True)
    deviations = group_sums(table - seed_means, groups)
    return seed_means + deviations * (deviations.shape[1] / table.shape[1])


class SeedVariance(NamedTuple):
    """What is known of the variance of a mean from seed to seed: its possible values and their probabilities."""

    values: Table  # (G,)
    weights: Table  # (G,), sum 1

    def typical(self) -> float:
        """Its geometric mean."""
        return float(np.exp(np.log(self.values) @ self.weights))


class MeanSquares(NamedTuple):
    """Of the analysis of variance of an (S, M) table; with one seed those of seeds and of the residual are 0."""

    seeds: float
    items: float
    residual: float


def mean_squares(table: Table) -> MeanSquares:
    """Seeds and items crossed, without replication. Raises ChainruleError where there are fewer than 2 items."""
    S, M = table.shape
    if M < 2:
        raise ChainruleError(f"an interval over items wants at least 2 of them (or of their groups), got {M}")
    mean = table.mean()
    seed_means, item_means = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    items = S * _squares(item_means - mean) / (M - 1)
    if S == 1:
        return MeanSquares(0.0, items, 0.0)
    residual = _squares(table - seed_means - item_means + mean) / ((S - 1) * (M - 1))
    return MeanSquares(M * _squares(seed_means - mean) / (S - 1), items, residual)


def mean_error(table: Table, seed_variance: SeedVariance | None = None) -> MeanError:
    """Of the mean of an (S, M) table whose seeds and items are both drawn at random.

    With known expected mean squares a, b, e of seeds, items and residual the variance would be
    max(a, b, a + b - e, e) / (S M). Only estimates A, B, E are known: a is distributed as A (S - 1) / chi², and b
    likewise, so the variance is averaged over these (a generalized pivotal quantity; Weerahandi, 1993). Where
    seeds alone vary this is Student's t with S - 1 degrees of freedom; where items alone vary, or S = 1, with M - 1.
    seed_variance: of one seed's mean, where more is known of it than this table tells; then the variance is
    seed_variance / S + b / (S M).
    """
    S, M = table.shape
    squares = mean_squares(table)
    items, item_weights = _possible(squares.items * (M - 1), M - 1)
    if seed_variance is not None:
        variances = seed_variance.values[:, None] / S + items / (S * M)
        return MeanError(np.sqrt(variances).ravel(), np.outer(seed_variance.weights, item_weights).ravel())
    if S == 1:
        return MeanError(np.sqrt(items / M), item_weights)
    seeds, seed_weights = _possible(squares.seeds * (S - 1), S - 1)
    seeds = seeds[:, None]
    # The mean squares of seeds and items are expected to be no less than the residual, but can be 0 by chance.
    residual = squares.residual
    variances = np.maximum(np.maximum(seeds, items), np.maximum(seeds + items - residual, residual)) / (S * M)
    return MeanError(np.sqrt(variances).ravel(), np.outer(seed_weights, item_weights).ravel())


def _squares(deviations: Table) -> float:
    """Their sum of squares, rounding errors as 0: one wrong answer in a million items has 1e-6."""
    total = float((deviations**2).sum())
    return total if total > 1e-20 else 0.0


def _possible(squares: float, degrees: int) -> tuple[Table, Table]:
    """Values of an expected mean square, given a sum of squares: `squares` / chi², with weights."""
    from scipy.special import chdtri

    low, high = np.log(chdtri(degrees, [1 - 1e-9, 1e-9]))
    log_chi_square = np.linspace(low, high, VALUES)
    log_density = degrees / 2 * log_chi_square - np.exp(log_chi_square) / 2
    weights = np.exp(log_density - log_density.max())
    return squares / np.exp(log_chi_square), weights / weights.sum()
