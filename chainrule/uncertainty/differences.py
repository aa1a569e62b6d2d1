"""Differences of two predictors on the same items, and tests of many. Knows which answers were
right, not what they answer."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.errors import ChainruleError
from chainrule.uncertainty.tables import SeedVariance, by_group, mean_error, table_of

SIMULATIONS = 10_000  # of a family of tests; an adjusted .05 has a standard error of .002


class Difference(NamedTuple):
    """The accuracy of the first less that of the second, in -1..1, with its 95 % interval."""

    value: float
    low: float
    high: float
    p_value: float  # of no difference, two-sided


def difference(
    a: ArrayLike, b: ArrayLike, groups: Sequence[str] | None = None, seed_variance: SeedVariance | None = None
) -> Difference:
    """Of two predictors on the same M items, each (S, M), right or wrong; (1, M) or (M,) is one fixed predictor.

    Row s of both was trained with the same labels, so a - b is averaged, entry by entry, with the error of a mean over
    seeds and items. Two fixed predictors, and differences that do not vary: mid-p McNemar and Tango's interval. With
    `groups`, one name an item, groups replace items. Parts of figures that are no means, such as `micro_f1_parts`, are
    averaged alike. `seed_variance`: of a - b, where other tables tell more about it (`seed_variances`, `sum_of`).
    """
    first, second = table_of(a, "a"), table_of(b, "b")
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ChainruleError(
            f"difference: wanted the same seeds and items, (S, M), got {first.shape} and {second.shape}"
        )
    table = first - second
    plain = seed_variance is None and np.isin(table, (-1, 0, 1)).all()
    if len(table) == 1 and groups is None and plain:
        return _of_fixed(int((table > 0).sum()), int((table < 0).sum()), table.shape[1])
    table = by_group(table, groups)
    value, error = float(table.mean()), mean_error(table, seed_variance)
    if not error.varies:
        units = table.shape[1]
        return _of_fixed(round(max(value, 0) * units), round(max(-value, 0) * units), units)
    half = error.half_width()
    low, high = max(value - half, min(-1.0, value)), min(value + half, max(1.0, value))
    return Difference(value, low, high, error.beyond(abs(value)))


def _of_fixed(only_a: int, only_b: int, n: int) -> Difference:
    return Difference((only_a - only_b) / n, *tango(only_a, only_b, n), mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided mid-p value of equal accuracy, from the items that only one of two predictors got right.

    Fagerland, Lydersen and Laake, 2013: P(X < k) + P(X <= k), X binomial with a half, k the smaller of the counts.
    """
    from scipy.special import bdtr

    n, fewer = only_a + only_b, min(only_a, only_b)
    below = float(bdtr(fewer - 1, n, 0.5)) if fewer else 0.0
    return below + float(bdtr(fewer, n, 0.5))


def tango(only_a: int, only_b: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval for a difference of paired proportions, (only_a - only_b) / n (T. Tango, 1998)."""
    if min(only_a, only_b) < 0 or only_a + only_b > n or n < 1:
        raise ChainruleError(f"tango: wanted counts of at most n >= 1 items, got {only_a} and {only_b} of {n}")
    quantile = NormalDist().inv_cdf((1 + level) / 2)

    def holds(delta: float) -> bool:
        """The counts lie within `quantile` standard errors of `delta`, the nuisance estimated given `delta`."""
        slope = (2 * n - only_a + only_b) * delta - only_a - only_b
        root = max(slope**2 + 8 * n * only_b * delta * (1 - delta), 0.0) ** 0.5
        variance = n * ((root - slope) / (2 * n) + delta * (1 - delta))
        return (only_a - only_b - n * delta) ** 2 <= quantile**2 * variance

    def end(outside: float) -> float:
        inside = (only_a - only_b) / n
        if inside == outside:
            return outside
        for _ in range(60):  # halvings: to the last bit
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if holds(middle) else (inside, middle)
        return inside

    return end(-1.0), end(1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the same order: at most a share alpha of families has a false one <= alpha (Holm, 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


class Direction(NamedTuple):
    """Which way a difference was found, and the share of the level that is spent on its being above 0."""

    above: bool
    share: float = 0.5  # one half: an ordinary two-sided test


def adjusted_together(
    p_values: Sequence[float], covariance: ArrayLike, directions: Sequence[Direction] | None = None
) -> list[float]:
    """Adjusted p-values, in the same order, as `holm`'s but smaller where the tests tend to err together.

    p_values: n two-sided ones. covariance: (n, n), of the errors of what is tested. The step-down of least p-values by
    Westfall and Young (1993), their joint distribution simulated by normals with these correlations. `directions`: a
    test that spends a share s of its level on differences above 0 counts one of these as p / 2s, and one below as
    p / 2(1 - s), so that what is asked for is found more often at the same rate of errors. None is larger than Holm's
    of the values so weighted, but where that is below the p-value itself, which is the least.
    """
    values, errors = np.asarray(p_values, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if errors.shape != (len(values), len(values)):
        raise ChainruleError(f"adjusted_together: wanted a covariance of {len(values)} errors, got {errors.shape}")
    if len(values) < 2:
        return values.tolist()
    from scipy.special import ndtr

    given = directions or [Direction(True)] * len(values)
    shares = np.array([one.share for one in given])  # (n,) of the level, for a difference above 0
    weighted = _weighted(values / 2, np.array([one.above for one in given]), shares)
    order = np.argsort(weighted, kind="stable")
    normals = _correlated_normals(errors[np.ix_(order, order)])  # (SIMULATIONS, n)
    simulated = _weighted(ndtr(-np.abs(normals)), normals > 0, shares[order])
    least = np.minimum.accumulate(simulated[:, ::-1], axis=1)[:, ::-1]  # of a test and all with larger p-values
    steps = ((least <= weighted[order]).sum(axis=0) + 1) / (SIMULATIONS + 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.maximum(steps, weighted[order]))
    return np.maximum(np.minimum(adjusted, holm(weighted.tolist())), values).tolist()


def _weighted(
    one_sided: NDArray[np.float64], above: NDArray[np.bool_], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One-sided p-values over the share of the level that their direction has, at most 1."""
    found: NDArray[np.float64] = np.minimum(one_sided / np.maximum(np.where(above, shares, 1 - shares), 1e-12), 1.0)
    return found


def _correlated_normals(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(SIMULATIONS, n), of variance 1; where the covariance has none, independent of the others."""
    deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))  # rounding can make a variance of 0 negative
    none = deviations < 1e-12
    scale = np.where(none, 1.0, deviations)
    correlation = covariance / np.outer(scale, scale)
    correlation[none, none] = 1.0
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normals = np.random.default_rng(0).normal(size=(SIMULATIONS, len(values)))
    drawn: NDArray[np.float64] = normals @ root.T
    return drawn
