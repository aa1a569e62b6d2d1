"""Multinomial logistic regression whose regularisation is chosen inside the labels it is given. Knows no texts.

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
    """What the inverse of the regularisation (scikit-learn's C) may be, and what it is where labels are too few."""

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

    def made(strength: float, rows: Any = slice(None)) -> Any:
        weight = "balanced" if balanced else None
        regression = LogisticRegression(
            C=strength, fit_intercept=intercept, class_weight=weight, max_iter=10_000, tol=_TOLERANCE
        )
        return regression.fit(features[rows], classes[rows])

    if len(classes) < FOLDS * len(np.unique(classes)):
        return made(strengths.default)
    folds = dealt(classes, FOLDS, seed)
    losses = dict.fromkeys(strengths.choices, 0.0)
    for fold in range(FOLDS):
        train, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        # a class that only the held-out fold has says nothing about the strength
        held = held[np.isin(classes[held], classes[train])]
        for strength in losses:
            regression = made(strength, train)
            columns = np.searchsorted(regression.classes_, classes[held])
            right = regression.predict_proba(features[held])[np.arange(len(held)), columns]
            losses[strength] -= float(np.log(right.clip(_LEAST)).sum())
    return made(min(losses, key=losses.__getitem__))


def classes_of(labels: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """(N,) the place of each label among the `names`."""
    place = {label: number for number, label in enumerate(names)}
    return np.array([place[label] for label in labels], np.int64)


def dealt(classes: NDArray[np.integer], hands: int, seed: int) -> NDArray[np.int64]:
    """The hand in 0..hands-1 that each example goes to: shuffled, and each class dealt out in turn."""
    order = np.random.default_rng([seed, len(classes)]).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    hand = np.empty(len(classes), np.int64)
    hand[order] = np.arange(len(classes)) % hands
    return hand
