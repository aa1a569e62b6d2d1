"""Heads of several labels at once and of numbers: what scikit-learn finds, with a bias and without one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from chainrule.finetuning.centred import STRENGTHS, Centred, HeadWeights
from chainrule.finetuning.head import STRENGTHS as STRENGTHS_OF_HEADS
from chainrule.finetuning.label_heads import solve_label_heads
from chainrule.finetuning.logistic import Strengths, fit
from chainrule.finetuning.ridge import solve_ridge

Data = tuple[NDArray[np.float32], NDArray[np.float64]]


def features(n: int, width: int = 20, seed: int = 0) -> Data:
    """Features with a large common mean, as hidden states have, and what is learned from them."""
    rng = np.random.default_rng(seed)
    mean, turn = 4 * np.random.default_rng(9).normal(size=width), np.random.default_rng(8).normal(size=(width, width))
    centred = rng.normal(size=(n, width)) @ turn / 4
    return (centred + mean).astype(np.float32), centred @ np.random.default_rng(7).normal(size=width)


def outputs(head: HeadWeights, given: NDArray[np.float32]) -> NDArray[np.float64]:
    found = given.astype(np.float64) @ head.w.double().numpy().T
    return found if head.bias is None else found + head.bias.double().numpy()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [12, 200])
def test_features_are_their_mean_times_the_constant_and_what_varies(n: int, bias: bool) -> None:
    given, _ = features(n)
    centred = Centred(given, bias=bias)
    coefficients, intercepts = np.random.default_rng(0).normal(size=(3, 20)), np.array([1.0, -2.0, 300.0])
    expected = centred.varying @ coefficients.T + np.outer(centred.constant, intercepts)
    head = centred.head(coefficients, intercepts)
    np.testing.assert_allclose(outputs(head, given), expected, atol=2e-3)
    assert (head.bias is None) != bias
    assert centred.constant.mean() == pytest.approx(1) and abs(centred.varying.mean(0)).max() < 1e-6


def test_ridge_finds_scikit_learns_best_left_out_fit() -> None:
    from sklearn.linear_model import RidgeCV

    given, numbers = features(30)
    numbers = numbers + 50 + np.random.default_rng(1).normal(size=30)
    scaled = given.astype(np.float64) / given.std(0, dtype=np.float64)
    scaled -= scaled.mean(0)
    strengths = STRENGTHS * (np.linalg.svd(scaled, compute_uv=False) ** 2).mean()
    expected = RidgeCV(strengths).fit(scaled, numbers).predict(scaled)  # each text left out
    np.testing.assert_allclose(outputs(solve_ridge(given, numbers, bias=True), given)[:, 0], expected, atol=2e-3)


def test_the_labels_are_scikit_learns_logistic_regressions() -> None:
    from sklearn.linear_model import LogisticRegression

    given, numbers = features(150)
    noise = np.random.default_rng(2).normal(size=(3, 150))
    targets = np.stack([numbers + noise[0] > 0, numbers + noise[1] > 1, noise[2] > 1.5], axis=1).astype(float)
    head = solve_label_heads(given, targets, balanced=False, seed=0, bias=True, strengths=Strengths((0.01,), 0.01))
    scaled = given.astype(np.float64) / given.std(0, dtype=np.float64)
    for label in range(3):
        peer = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000).fit(scaled - scaled.mean(0), targets[:, label])
        expected = peer.decision_function(scaled - scaled.mean(0))
        np.testing.assert_allclose(outputs(head, given)[:, label], expected, atol=2e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_new_texts_are_told_apart_with_and_without_a_bias(bias: bool) -> None:
    (given, numbers), (new, truth) = features(300), features(300, seed=1)
    found = outputs(solve_ridge(given, numbers + 100, bias=bias), new)[:, 0]
    assert np.square(found - truth - 100).mean() < 0.1 * np.var(truth)
    targets = np.stack([numbers > 0, numbers > np.quantile(numbers, 0.9)], axis=1).astype(float)
    head = solve_label_heads(given, targets, balanced=False, seed=0, bias=bias)
    right = (outputs(head, new) > 0) == np.stack([truth > 0, truth > np.quantile(numbers, 0.9)], axis=1)
    assert right.mean() > 0.9


@pytest.mark.parametrize("bias", [True, False])
def test_a_label_that_all_texts_have_or_none_gets_about_its_share(bias: bool) -> None:
    given, numbers = features(40)
    targets = np.stack([np.ones(40), np.zeros(40), numbers > 0], axis=1).astype(float)
    head = solve_label_heads(given, targets, balanced=False, seed=0, bias=bias)
    p = 1 / (1 + np.exp(-outputs(head, given)))
    np.testing.assert_allclose(p[:, 0], 40.5 / 41, atol=0.02)
    np.testing.assert_allclose(p[:, 1], 0.5 / 41, atol=0.02)
    one = solve_label_heads(given[:1], targets[:1], balanced=False, seed=0, bias=bias)
    assert np.isfinite(outputs(one, given)).all()


def test_balanced_labels_predict_the_rare_one_more_often() -> None:
    given, numbers = features(200)
    targets = (numbers + 2 * np.random.default_rng(3).normal(size=200) > 3).astype(float)[:, None]
    plain, balanced = (solve_label_heads(given, targets, balanced=each, seed=0, bias=True) for each in (False, True))
    assert (outputs(balanced, given) > 0).sum() > (outputs(plain, given) > 0).sum()


def test_one_example_of_a_class_among_many_can_be_learned_from() -> None:
    given, _ = features(30)
    fitted = fit(
        given, (np.arange(30) == 3).astype(np.int64), STRENGTHS_OF_HEADS, intercept=True, balanced=False, seed=0
    )
    assert fitted.predict_proba(given)[:, 1].mean() < 0.2
