"""Calibration of probabilities. Knows probabilities and the true classes, not how they were predicted.

Shapes: M items, C classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.errors import ChainruleError
from chainrule.uncertainty.intervals import wilson

BINS = 10
SIMULATIONS = 1000
NUMBERS_IN_MEMORY = 2**18  # of some simulations together


class Bin(NamedTuple):
    """Items of about the same confidence: a point of the reliability diagram."""

    confidence: float  # mean probability of the predicted class
    accuracy: float
    low: float  # Wilson, 95 %
    high: float
    n: int


class Calibration(NamedTuple):
    """How well probabilities agree with what is right."""

    brier: float  # mean over items of the squared error summed over classes, 0..2; two classes: twice the binary score
    log_loss: float  # nats; a probability of 0 counts as 2e-16
    ece: float  # expected calibration error: the mean over items of |accuracy - confidence| of their bin
    ece_expected: float  # what `ece` would be on average, on as many items, were these probabilities exactly right
    bins: list[Bin]  # by rising confidence; about as many items in each


def calibration(probabilities: ArrayLike, truth: ArrayLike, seed: int = 0) -> Calibration:
    """`probabilities` (M, C), rows that sum to 1; `truth` (M,), indices of classes.

    The expected calibration error of a perfect predictor is not 0: in a bin of n items accuracy differs from
    confidence by about 0.4 / sqrt(n) by chance. `ece_expected` is that bias, simulated with `seed` from the same
    confidences (Bröcker, Smith, 2007).
    """
    p, classes = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    _check(p, classes)
    of_truth = p[np.arange(len(p)), classes]
    brier = float(((p**2).sum(axis=1) - 2 * of_truth + 1).mean())
    log_loss = float(-np.log(np.maximum(of_truth, np.finfo(np.float64).eps)).mean())

    order = np.argsort(p.max(axis=1), kind="stable")
    confidence, right = p.max(axis=1)[order], (p.argmax(axis=1) == classes)[order]
    starts = _bin_starts(confidence)
    ece = float(_calibration_errors(confidence, right[None], starts)[0])

    bins = []
    for some_confidence, some_right in zip(np.split(confidence, starts[1:]), np.split(right, starts[1:]), strict=True):
        n, n_right = len(some_right), int(some_right.sum())
        bins.append(Bin(float(some_confidence.mean()), n_right / n, *wilson(n_right, n), n))
    return Calibration(brier, log_loss, ece, _expected_error(confidence, starts, seed), bins)


def _expected_error(confidence: NDArray[np.float64], starts: NDArray[np.int64], seed: int) -> float:
    """The mean calibration error of simulations in which the confidences are exactly right, some at once."""
    rng, block = np.random.default_rng(seed), max(1, NUMBERS_IN_MEMORY // len(confidence))
    errors = [
        _calibration_errors(
            confidence, rng.random((min(block, SIMULATIONS - first), len(confidence))) < confidence, starts
        )
        for first in range(0, SIMULATIONS, block)
    ]
    return float(np.concatenate(errors).mean())


def _check(p: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
    if p.ndim != 2 or p.size == 0 or classes.shape != p.shape[:1]:
        raise ChainruleError(
            f"calibration: wanted (M, C) probabilities of (M,) classes, got {p.shape} of {classes.shape}"
        )
    if not (p.min() >= 0 and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise ChainruleError("calibration: wanted rows of probabilities that sum to 1, got others")
    if not (classes.dtype.kind in "iu" and classes.min() >= 0 and classes.max() < p.shape[1]):
        raise ChainruleError(f"calibration: wanted classes as indices below {p.shape[1]}, got {np.unique(classes)[:5]}")


def _bin_starts(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where bins of equal mass begin in rising confidences; equal ones share a bin, whatever the order of the items."""
    edges = confidence[np.arange(1, BINS) * len(confidence) // BINS]
    return np.unique(np.append(0, np.searchsorted(confidence, edges, side="left")))


def _calibration_errors(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(R, M) of which items are right to (R,): the mean over items of |accuracy - confidence| of their bin; the bins
    begin at `starts`."""
    errors: NDArray[np.float64] = np.abs(np.add.reduceat(right - confidence, starts, axis=1)).sum(axis=1)
    return errors / len(confidence)
