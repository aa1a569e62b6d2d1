"""A logistic regression for each of several labels at once. Knows features, not their model.

Shapes: N texts, D width, C labels.
"""

import numpy as np
from numpy.typing import NDArray

from chainrule.finetuning.centred import Centred, HeadWeights
from chainrule.finetuning.head import STRENGTHS
from chainrule.finetuning.logistic import FOLDS, Strengths, assign_folds

_ROUNDS = 1000  # of L-BFGS, at most
_TOLERANCE, _ROUGHLY = 1e-6, 1e-5  # of the mean loss's gradient; to choose the regularisation
Fit = tuple[NDArray[np.float64], NDArray[np.float64]]  # coefficients (C, D) and intercepts (C,)


def solve_label_heads(
    features: NDArray[np.float32],
    targets: NDArray[np.float64],
    *,
    balanced: bool,
    seed: int,
    bias: bool,
    strengths: Strengths = STRENGTHS,
) -> HeadWeights:
    """w (C, D) so that sigmoid(w · c) is the probability of each label; from c (N, D) and targets (N, C), 0 or 1.

    Each label's regularisation (scikit-learn's C) is the one of least log loss in a cross-validation drawn from `seed`;
    the default where fewer than `FOLDS` texts have the label, or lack it. `balanced`: the texts that have a label and
    those that lack it weigh the same. The intercept is not penalised; `bias` says whether the head may have one.
    """
    centred = Centred(features, bias=bias)
    weights = balancing(targets) if balanced else np.ones_like(targets)
    chosen = _chosen(centred, targets, weights, strengths, seed)
    return centred.head(*_fit(centred.varying, centred.constant, targets, weights, chosen))


def balancing(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, C) weights with which a label's texts and all others weigh the same, N in all."""
    n, have = len(targets), targets.sum(0)
    of_those, of_others = n / (2 * np.maximum(have, 1)), n / (2 * np.maximum(n - have, 1))
    return np.where((have > 0) & (have < n), np.where(targets > 0, of_those, of_others), 1.0)


def _chosen(
    centred: Centred,
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    strengths: Strengths,
    seed: int,
) -> NDArray[np.float64]:
    """(C,) each label's strength."""
    have = targets.sum(0)
    enough = np.minimum(have, len(targets) - have) >= FOLDS
    if not enough.any():
        return np.full(len(have), strengths.default)
    folds = assign_folds(_rarest(targets), FOLDS, seed)
    starts: list[Fit | None] = [None] * FOLDS
    best, found = np.full(len(have), np.inf), np.full(len(have), strengths.default)
    for strength in strengths.choices:  # from much to little regularisation: each fit begins where the last ended
        losses = np.zeros(len(have))
        for fold in range(FOLDS):
            train, test = folds != fold, folds == fold
            fit = starts[fold] = _fit(
                centred.varying[train],
                centred.constant[train],
                targets[train],
                weights[train],
                np.full(len(have), strength),
                starts[fold],
                _ROUGHLY,
            )
            logits = centred.varying[test] @ fit[0].T + np.outer(centred.constant[test], fit[1])
            losses += (weights[test] * _losses(logits, targets[test])).sum(0)
        better = enough & (losses < best)
        if not better.any():  # with less still it would only get worse, and take longest
            break
        best[better], found[better] = losses[better], strength
    return found


def _rarest(targets: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) the rarest label of each text, C where it has none: the strata of the folds."""
    have = np.where(targets > 0, targets.sum(0), np.inf)
    return np.where(targets.any(1), have.argmin(1), targets.shape[1])


def _losses(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log sigmoid of the right answer, element by element."""
    return np.logaddexp(0.0, logits) - targets * logits


def _fit(
    varying: NDArray[np.float64],
    constant: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    strengths: NDArray[np.float64],
    start: Fit | None = None,
    tolerance: float = _TOLERANCE,
) -> Fit:
    """Coefficients (C, D) and intercepts (C,), all labels in one problem: their losses only add up.

    A label that all texts have, or none, has no finite intercept: it gets the share with half a text added to each side
    (Krichevsky and Trofimov, 1981).
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    N, D, C = len(varying), varying.shape[1], targets.shape[1]
    have = targets.sum(0)
    shares = np.log(have + 0.5) - np.log(N - have + 0.5)
    fitted = (have > 0) & (have < N)
    if not fitted.any():
        return np.zeros((C, D)), shares

    def cost(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = flat.reshape(-1, D + 1)
        coefficients, intercepts = both[:, :D], both[:, D]
        logits = varying @ coefficients.T + np.outer(constant, intercepts)
        errors = weights[:, fitted] * (expit(logits) - targets[:, fitted])  # (N, C)
        penalised = coefficients / strengths[fitted, None]
        loss = (weights[:, fitted] * _losses(logits, targets[:, fitted])).sum() + (penalised * coefficients).sum() / 2
        gradient = np.concatenate((errors.T @ varying + penalised, (errors.T @ constant)[:, None]), axis=1)
        return float(loss) / N, gradient.ravel() / N

    begin = np.zeros((C, D + 1)) if start is None else np.concatenate((start[0], start[1][:, None]), axis=1)
    if start is None:
        begin[:, D] = shares
    options = {"maxiter": _ROUNDS, "gtol": tolerance, "ftol": 1e-13}
    found = minimize(cost, begin[fitted].ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(-1, D + 1)
    coefficients, intercepts = np.zeros((C, D)), shares
    coefficients[fitted], intercepts[fitted] = found[:, :D], found[:, D]
    return coefficients, intercepts
