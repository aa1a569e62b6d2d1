"""How far accuracies vary from seed to seed, estimated from many tables together. Knows numbers alone.

Two seeds of one table say little about a standard deviation, but a comparison has many tables: several methods, each at
several numbers of labels. Shapes: K tables, each of S seeds by M items; G values of a standard deviation; C centres.
"""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrule.uncertainty.tables import SeedVariance, Table, mean_squares

# From seed to seed at an accuracy of one half, as shares: 0.02 is two points of accuracy. At an accuracy p it is
# 4p(1 - p) times that, as where seeds move log odds: near 0 and 1 little can vary.
DEVIATIONS = np.geomspace(1e-3, 0.5, 48)
_CENTRES = np.geomspace(1e-3, 0.5, 32)
_SLOPES = (0.0, -0.25, -0.5)  # of the log deviation on the log of the number of labels
_AROUND_METHOD = (0.15, 0.4, 0.8)  # standard deviation of a table's log deviation around its method's line
_AROUND_ALL = (0.25, 0.5, 1.0, 2.0)  # standard deviation of the methods' centres around their common one
_AROUND_METHOD_SCALE = 0.25  # of the half-normal prior
_ANY_CENTRE = 0.3  # share of methods that may have any centre, whatever the others' are
_ANY_DEVIATION = 0.05  # share of tables that may have any deviation, whatever their method's others are
_VARIANCES = 64  # that a sum of two is rounded to


def sum_of(a: SeedVariance | None, b: SeedVariance | None) -> SeedVariance | None:
    """The variance of the difference of two methods whose seeds are independent; None is one that no seed changes.

    The same labels for both usually make good and bad seeds coincide, and then this is too large, not too small.
    """
    if a is None or b is None:
        return a or b
    values = (a.values[:, None] + b.values).ravel()
    weights = np.outer(a.weights, b.weights).ravel()
    edges = np.geomspace(values.min(), values.max() * (1 + 1e-9), _VARIANCES)
    bins = np.searchsorted(edges, values, side="right")
    weight = np.bincount(bins, weights)
    some = weight > 0
    means = np.bincount(bins, weights * values)[some] / weight[some]
    return SeedVariance(means.astype(np.float64), weight[some].astype(np.float64))


def sum_if_equal(first: Table, second: Table, a: SeedVariance | None, b: SeedVariance | None) -> SeedVariance | None:
    """`sum_of` for a test of whether two methods, (S, M) each, are equally accurate; a and b: of their seeds' means.

    Seeds move log odds, and with them an accuracy p by p(1 - p) as much: of two equal methods the one that luck put
    nearer to 1 seems to vary less, and to be surely ahead. Here both move by the slope between their accuracies: what
    these differ by, over what their log odds do.
    """
    p, q = _accuracy(first), _accuracy(second)
    between = log((p * (1 - q)) / (q * (1 - p)))
    slope = p * (1 - p) if abs(between) < 1e-6 else (p - q) / between
    return sum_of(_moved(a, slope / (p * (1 - p))), _moved(b, slope / (q * (1 - q))))


def _moved(variance: SeedVariance | None, factor: float) -> SeedVariance | None:
    return None if variance is None else SeedVariance(variance.values * factor**2, variance.weights)


def seed_variances(tables: Sequence[Table], methods: Sequence[str], labels: Sequence[int]) -> list[SeedVariance]:
    """For each of K tables, (S, M) with S >= 2, the variance of its seeds' means, given that table and all the others.

    methods, labels: the method whose answers a table has, and how many labels it learned from. The log deviations of a
    method lie around a line in log labels, with the same slope for all methods. Each method has its own centre, so that
    all its tables together show one that varies ten times as much as the others. The centres are normal around a
    common one, but for some that may be anywhere. Slope and spreads are averaged over by their posterior on a grid.
    This moderates variances in the way of limma (Smyth, 2004), with a level for the method.
    """
    if not tables:
        return []
    likelihood = np.stack([_likelihood(table) for table in tables])  # (K, G)
    log_labels = np.log(np.maximum(labels, 1))
    names = list(dict.fromkeys(methods))
    method_of = np.array([names.index(method) for method in methods])
    common = _common_prior()  # (H, C)
    hypotheses = [
        _hypothesis(likelihood, log_labels - log_labels.mean(), method_of, common, slope, spread)
        for slope in _SLOPES
        for spread in _AROUND_METHOD
    ]
    best = max(float(one.log_weight.max()) for one in hypotheses)
    found = np.zeros_like(likelihood)
    for one in hypotheses:
        weight = np.exp(one.log_weight - best) / (one.of_method @ common.T)  # (methods, H)
        centres = one.of_method * (weight @ common)  # (methods, C), of their posterior
        found += np.einsum("kc,ckg->kg", centres[method_of], one.deviations)
    found /= found.sum(axis=1, keepdims=True)
    return [
        SeedVariance((_scale(table) * DEVIATIONS) ** 2, weights) for table, weights in zip(tables, found, strict=True)
    ]


class _Hypothesis(NamedTuple):
    """One slope, and one spread of tables around their method's line."""

    log_weight: Table  # (H,): of each common centre and spread, given all tables
    of_method: Table  # (methods, C): the likelihood of a method's centre, up to a factor
    deviations: Table  # (C, K, G): the posterior of a table's deviation, given its method's centre


def _hypothesis(
    likelihood: Table, log_labels: Table, method_of: NDArray[np.int64], common: Table, slope: float, spread: float
) -> _Hypothesis:
    lines = np.log(_CENTRES)[:, None] + slope * log_labels  # (C, K)
    prior = np.exp(-(((np.log(DEVIATIONS) - lines[..., None]) / spread) ** 2) / 2)  # (C, K, G)
    prior /= prior.sum(axis=-1, keepdims=True) + 1e-300
    joint = ((1 - _ANY_DEVIATION) * prior + _ANY_DEVIATION / len(DEVIATIONS)) * likelihood
    evidence = joint.sum(axis=-1)  # (C, K)
    log_of_method = np.zeros((method_of.max() + 1, len(_CENTRES)))
    np.add.at(log_of_method, method_of, np.log(evidence).T)
    greatest = log_of_method.max(axis=1, keepdims=True)
    of_method = np.exp(log_of_method - greatest)
    log_prior = -((spread / _AROUND_METHOD_SCALE) ** 2) / 2
    log_weight = log_prior + greatest.sum() + np.log(of_method @ common.T).sum(axis=0)
    return _Hypothesis(log_weight, of_method, joint / evidence[..., None])


def _common_prior() -> Table:
    """(H, C): how probable each centre is, for each common centre and each spread of the methods around it."""
    distance = np.log(_CENTRES) - np.log(_CENTRES)[:, None]
    density = np.concatenate([np.exp(-((distance / spread) ** 2) / 2) for spread in _AROUND_ALL])
    return (1 - _ANY_CENTRE) * density / density.sum(axis=1, keepdims=True) + _ANY_CENTRE / len(_CENTRES)


def _scale(table: Table) -> float:
    """4p(1 - p), p being the table's accuracy."""
    p = _accuracy(table)
    return 4 * p * (1 - p)


def _accuracy(table: Table) -> float:
    """With an item more, half right: never 0 or 1."""
    S, M = table.shape
    return (float(table.sum()) + 0.5) / (S * M + 1)


def _likelihood(table: Table) -> NDArray[np.float64]:
    """(G,) of the mean square of seeds, up to a factor."""
    S, M = table.shape
    squares = mean_squares(table)
    expected = squares.residual + M * (_scale(table) * DEVIATIONS) ** 2
    log = -(S - 1) / 2 * (np.log(expected) + squares.seeds / expected)
    likelihood: NDArray[np.float64] = np.exp(log - log.max())
    return likelihood
