"""Scores of probabilities, and the reliability diagram."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from chainrule.uncertainty import calibration, wilson


def binary(rng: np.random.Generator, M: int, sharpen: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes and truth; with `sharpen` above 1 they claim more than they know."""
    logit = rng.normal(0, 1.5, M)
    truth = (rng.random(M) < 1 / (1 + np.exp(-logit))).astype(int)
    p = 1 / (1 + np.exp(-sharpen * logit))
    return np.stack([1 - p, p], axis=1), truth


def test_an_example_by_hand() -> None:
    found = calibration([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1]], [0, 2])
    assert found.brier == pytest.approx(((0.04 + 0.01 + 0.01) + (0.09 + 0.36 + 0.81)) / 2)
    assert found.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.1)) / 2)
    assert found.ece == pytest.approx((0.6 + 0.2) / 2)
    assert [(point.confidence, point.accuracy, point.n) for point in found.bins] == [(0.6, 0.0, 1), (0.8, 1.0, 1)]


def test_the_scores_are_scikit_learns() -> None:
    p, truth = binary(np.random.default_rng(0), 300)
    found = calibration(p, truth)
    assert found.log_loss == pytest.approx(log_loss(truth, p))
    assert found.brier == pytest.approx(2 * brier_score_loss(truth, p[:, 1]))


def test_ten_bins_of_equal_mass_by_rising_confidence_with_wilsons_bars() -> None:
    p, truth = binary(np.random.default_rng(1), 205)
    bins = calibration(p, truth).bins
    assert sorted(point.n for point in bins) == [20] * 5 + [21] * 5
    assert [point.confidence for point in bins] == sorted(point.confidence for point in bins)
    assert all((point.low, point.high) == wilson(round(point.accuracy * point.n), point.n) for point in bins)
    assert sum(point.n * point.accuracy for point in bins) == pytest.approx((p.argmax(axis=1) == truth).sum())


def test_equal_confidences_share_a_bin_so_that_the_order_of_items_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    p, truth = binary(rng, 200)
    p = p.round(1)
    order = rng.permutation(200)
    first, second = calibration(p, truth), calibration(p[order], truth[order])
    assert first[:4] == pytest.approx(second[:4], abs=1e-12)
    assert np.array(first.bins) == pytest.approx(np.array(second.bins))
    majority = calibration(np.tile([0.7, 0.3], (50, 1)), truth[:50])
    assert len(majority.bins) == 1 and majority.ece == pytest.approx(abs(0.7 - (truth[:50] == 0).mean()))


def test_exact_probabilities_have_the_expected_error_and_boasts_have_more() -> None:
    rng = np.random.default_rng(3)
    honest = [calibration(*binary(rng, 200)) for _ in range(40)]
    assert np.mean([found.ece for found in honest]) == pytest.approx(
        np.mean([found.ece_expected for found in honest]), rel=0.1
    )
    assert honest[0].ece_expected > 0.04  # a perfect predictor, at 200 items
    boast = calibration(*binary(rng, 200, sharpen=5))
    assert boast.ece > 2 * boast.ece_expected


def test_a_probability_of_zero_for_what_is_true_is_a_large_loss_not_an_endless_one() -> None:
    assert 10 < calibration([[1.0, 0.0], [1.0, 0.0]], [1, 1]).log_loss < 50


@pytest.mark.parametrize(
    ("p", "truth", "message"),
    [
        ([[0.5, 0.5]], [0, 1], r"^calibration: wanted \(M, C\) probabilities of \(M,\) classes, got [^\n]*$"),
        ([[0.5, 0.6]], [0], r"^calibration: wanted rows of probabilities that sum to 1, got others$"),
        ([[1.5, -0.5]], [0], r"^calibration: wanted rows of probabilities that sum to 1, got others$"),
        ([[np.nan, 0.5]], [0], r"^calibration: wanted rows of probabilities that sum to 1, got others$"),
        ([[0.5, 0.5]], [2], r"^calibration: wanted classes as indices below 2, got [^\n]*$"),
        ([[0.5, 0.5]], ["a"], r"^calibration: wanted classes as indices below 2, got [^\n]*$"),
    ],
)
def test_what_is_no_probability_or_no_class_is_one_line(p: list, truth: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(p, truth)
