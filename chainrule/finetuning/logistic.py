"""Multinomial logistic regression, its regularisation chosen by cross-validation. Knows no texts.

Shapes: N examples, D features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
_TOLERANCE = 1e-6  # of the gradient, where the solver (L-BFGS) stops
_LEAST = 1e-12  # a probability is at least this, so that its logarithm is finite


@dataclass(frozen=True)
class Strengths:
    """Candidates for the inverse of the regularisation (scikit-learn's C), and its value where labels are too few."""

    choices: Sequence[float]
    default: float


def fit(
    features: Any, classes: NDArray[np.integer], strengths: Strengths, *, intercept: bool, balanced: bool, seed: int
) -> Any:
    """A fitted scikit-learn LogisticRegression for features (N, D), dense or sparse, and classes (N,) in 0..C-1.

    Its strength is the one of least log loss in a stratified cross-validation drawn from `seed`; the default where
    there are fewer than `FOLDS` examples a class. `balanced`: every class weighs the same, however rare.
    """
    from sklearn.linear_model import LogisticRegression

    def fitted(strength: float, rows: Any = slice(None)) -> Any:
        weight = "balanced" if balanced else None
        regression = LogisticRegression(
            C=strength, fit_intercept=intercept, class_weight=weight, max_iter=10_000, tol=_TOLERANCE
        )
        return regression.fit(features[rows], classes[rows])

    if len(classes) < FOLDS * len(np.unique(classes)):
        return fitted(strengths.default)
    folds = assign_folds(classes, FOLDS, seed)
    losses = dict.fromkeys(strengths.choices, 0.0)
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(np.unique(classes[train])) < 2:  # the only example of one of two classes is held out
            continue
        # classes that only the held-out fold has cannot be predicted, whatever the strength
        test = test[np.isin(classes[test], classes[train])]
        for strength in losses:
            regression = fitted(strength, train)
            columns = np.searchsorted(regression.classes_, classes[test])
            right = regression.predict_proba(features[test])[np.arange(len(test)), columns]
            losses[strength] -= float(np.log(right.clip(_LEAST)).sum())
    return fitted(min(losses, key=losses.__getitem__))


def classes_of(labels: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """(N,) the index of each label in `names`."""
    index = {label: number for number, label in enumerate(names)}
    return np.array([index[label] for label in labels], np.int64)


def assign_folds(classes: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """The fold in 0..count-1 of each example (N,): stratified by class, drawn from `seed`."""
    order = np.random.default_rng([seed, len(classes)]).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    folds = np.empty(len(classes), np.int64)
    folds[order] = np.arange(len(classes)) % count
    return folds
