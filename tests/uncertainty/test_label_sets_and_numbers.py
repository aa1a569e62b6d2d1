"""F1, ranking precision, errors and correlations: the peers' values, and intervals that hold what they promise."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from sklearn.metrics import f1_score, label_ranking_average_precision_score, r2_score

from chainrule.uncertainty import Estimate, macro_f1_of_labels, micro_f1, r_squared, ranking_precision, rmse, spearman
from chainrule.uncertainty.label_sets import micro_f1_parts
from chainrule.uncertainty.numbers import _rank_correlation_parts, r_squared_parts

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def labels(rng: np.random.Generator, items: int) -> Pair:
    """Truth and predictions (M, C); one label is rare."""
    truth = rng.random((items, 4)) < [0.5, 0.2, 0.1, 0.3]
    return truth.astype(float), (truth ^ (rng.random((items, 4)) < [0.2, 0.1, 0.05, 0.2])).astype(float)


def numbers(rng: np.random.Generator, items: int) -> Pair:
    truth = rng.normal(size=items)
    return truth, 0.7 * truth + 0.6 * rng.normal(size=items)


def stars(rng: np.random.Generator, items: int) -> Pair:
    """1 to 5 in whole stars, so that there are many ties, predicted with an error."""
    opinion = rng.normal(size=items)
    return np.clip(np.round(1.3 * opinion + 3.6), 1, 5), opinion + 3.5 + rng.normal(size=items)


@pytest.mark.parametrize("seed", range(3))
def test_the_values_are_those_of_scikit_learn_and_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = labels(rng, 60)
    p = rng.random(truth.shape).round(1)  # with ties
    assert micro_f1(truth, found).value == pytest.approx(f1_score(truth, found, average="micro"))
    assert macro_f1_of_labels(truth, found).value == pytest.approx(f1_score(truth, found, average="macro"))
    assert ranking_precision(truth, p).value == pytest.approx(label_ranking_average_precision_score(truth, p))
    actual, predicted = stars(rng, 60)
    assert rmse(actual, predicted).value == pytest.approx(((actual - predicted) ** 2).mean() ** 0.5)
    assert r_squared(actual, predicted).value == pytest.approx(r2_score(actual, predicted))
    assert spearman(actual, predicted).value == pytest.approx(scipy.stats.spearmanr(actual, predicted).statistic)


def test_several_seeds_have_the_mean_of_their_values() -> None:
    rng = np.random.default_rng(0)
    truth, _ = stars(rng, 50)
    found = truth + rng.normal(size=(3, 50))
    for figure in (rmse, r_squared, spearman):
        assert figure(truth, found).value == pytest.approx(np.mean([figure(truth, one).value for one in found]))


@pytest.mark.parametrize("draw", [numbers, stars])
def test_influences_are_those_of_leaving_an_item_out(draw: Callable[[np.random.Generator, int], Pair]) -> None:
    truth, found = draw(np.random.default_rng(1), 300)
    some = range(40)

    def left_out(figure: Callable[..., Estimate]) -> NDArray[np.float64]:
        whole = figure(truth, found).value
        return np.array([299 * (whole - figure(np.delete(truth, i), np.delete(found, i)).value) for i in some])

    influence = _rank_correlation_parts(truth, found)
    np.testing.assert_allclose((influence - influence.mean())[:40], left_out(spearman), atol=0.03)
    (parts,) = r_squared_parts(truth, found)
    np.testing.assert_allclose((parts - parts.mean())[:40], left_out(r_squared), atol=0.15)


COVERED = [
    (micro_f1, labels), (macro_f1_of_labels, labels),
    *((figure, draw) for figure in (rmse, r_squared, spearman) for draw in (numbers, stars)),
]  # fmt: skip


@pytest.mark.parametrize(("figure", "draw"), COVERED)
def test_intervals_hold_the_true_value_in_95_of_100_samples(
    figure: Callable[..., Estimate], draw: Callable[[np.random.Generator, int], Pair]
) -> None:
    true = figure(*draw(np.random.default_rng(10**6), 60_000)).value
    found = [figure(*draw(np.random.default_rng(seed), 120)) for seed in range(200)]
    share = np.mean([one.low <= true <= one.high for one in found])
    assert 0.90 <= share <= 0.99  # 200 samples: a standard error of 0.015


def test_nothing_to_find_and_exact_predictions() -> None:
    none = np.zeros((5, 3))
    assert micro_f1(none, none).value == 0 and macro_f1_of_labels(none, none).value == 0
    assert ranking_precision(none, none).value == 1
    truth = np.arange(5.0)
    assert rmse(truth, truth) == (0, 0, 0)
    assert r_squared(truth, truth).value == 1 and spearman(truth, truth).value == pytest.approx(1)
    assert spearman(truth, np.ones(5)).value == 0
    with pytest.raises(ValueError, match="wanted items whose numbers differ"):
        r_squared(np.ones(5), truth)
    with pytest.raises(ValueError, match=r"wanted predictions \(S, M, C\) of labels \(M, C\)"):
        micro_f1(none, np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"wanted predictions \(S, M\) of numbers"):
        rmse(truth, np.ones(4))


def test_groups_widen_the_interval_of_items_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    truth, found = labels(rng, 40)
    repeated_truth, repeated = (np.repeat(each, 5, axis=0) for each in (truth, found))
    groups = [str(number // 5) for number in range(200)]
    alone, grouped = micro_f1(repeated_truth, repeated), micro_f1(repeated_truth, repeated, groups)
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)
    assert micro_f1_parts(truth, found).mean() == pytest.approx(micro_f1(truth, found).value)
