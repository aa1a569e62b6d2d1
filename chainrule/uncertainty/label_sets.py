"""F1 and ranking of several labels at once, with intervals over items. Knows which labels apply, not what they mean.

Shapes: S seeds, M test items, C labels. Truth and predictions are 0 or 1. Figures that are no mean over items are
linearised (the infinitesimal jackknife; Efron, 1982): `..._parts` (S, M) are their values plus each item's influence,
so that means, differences and errors over items are those of the parts, to first order.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.errors import ChainruleError
from chainrule.uncertainty.intervals import Estimate, mean_in_unit_interval
from chainrule.uncertainty.tables import Table, by_group


def micro_f1(truth: ArrayLike, predictions: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """F1 of all labels of all items together: 2 TP / (2 TP + FP + FN), 0 where nothing is there or predicted.

    `truth` (M, C), `predictions` (S, M, C) or (M, C). The interval is approximate, as that of `macro_f1`.
    """
    return micro_f1_of_parts(micro_f1_parts(truth, predictions), groups)


def macro_f1_of_labels(truth: ArrayLike, predictions: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """The mean of F1 over the labels that any item has; shapes and interval as of `micro_f1`."""
    actual, predicted = _checked(truth, predictions)
    there = actual.any(axis=0)
    if not there.any():
        return mean_in_unit_interval(np.zeros(predicted.shape[:2]))
    parts = [_f1_parts(actual[:, [c]], predicted[:, :, [c]]) for c in np.flatnonzero(there)]
    return mean_in_unit_interval(by_group(np.mean(parts, axis=0), groups))


def ranking_precision(truth: ArrayLike, probabilities: ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """Label ranking average precision: for each label that an item has, the share of such labels among those ranked
    as high, averaged over labels, then over items (Schapire and Singer, 2000); 1 for an item with none or all.

    `truth` (M, C), `probabilities` (S, M, C) or (M, C); a mean over items, with the interval of `accuracy`.
    """
    return mean_in_unit_interval(by_group(ranking_precisions(truth, probabilities), groups))


def micro_f1_of_parts(parts: Table, groups: Sequence[str] | None = None) -> Estimate:
    """The mean of `micro_f1_parts` (S, M) with its interval."""
    return mean_in_unit_interval(by_group(parts, groups))


def micro_f1_parts(truth: ArrayLike, predictions: ArrayLike) -> Table:
    """(S, M) whose means over items are the micro-F1 of each seed."""
    return _f1_parts(*_checked(truth, predictions))


def ranking_precisions(truth: ArrayLike, probabilities: ArrayLike) -> Table:
    """(S, M) the precision of each item's ranking."""
    actual, ranked = _checked(truth, probabilities)
    found = np.ones(ranked.shape[:2])
    for seed, of_seed in enumerate(ranked):
        for item, (labels, p) in enumerate(zip(actual > 0, of_seed, strict=True)):
            if labels.any() and not labels.all():
                among = p[labels]
                as_high = (p[None] >= among[:, None]).sum(1)
                true_ones = (among[None] >= among[:, None]).sum(1)
                found[seed, item] = float((true_ones / as_high).mean())
    return found


def _f1_parts(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> Table:
    """F1 over items and labels of (M, C) and (S, M, C), with each item's influence; 0 where nothing is there."""
    both = (actual * predicted).sum(axis=2)  # (S, M)
    named = actual.sum(axis=1) + predicted.sum(axis=2)
    share = named.mean(axis=1, keepdims=True)  # (S, 1)
    f1 = np.divide(2 * both.mean(axis=1, keepdims=True), share, out=np.zeros_like(share), where=share > 0)
    influence: Table = np.divide(2 * both - f1 * named, share, out=np.zeros_like(both), where=share > 0)
    return f1 + influence


def _checked(truth: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    actual, predicted = np.asarray(truth, np.float64), np.asarray(predictions, np.float64)
    predicted = predicted[None] if predicted.ndim == 2 else predicted
    if actual.ndim != 2 or actual.size == 0 or predicted.ndim != 3 or predicted.shape[1:] != actual.shape:
        raise ChainruleError(f"wanted predictions (S, M, C) of labels (M, C), got {predicted.shape} of {actual.shape}")
    return actual, predicted
