"""Intervals of accuracy and macro-F1 hold what they promise."""

import math

import numpy as np
import pytest
from scipy.special import expit, stdtrit
from scipy.stats import binom
from sklearn.metrics import f1_score

from chainrule.uncertainty import Estimate, accuracy, macro_f1, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe, 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("n", [100, 200])
def test_ninety_five_percent_intervals_hold_the_proportion_ninety_five_times_of_a_hundred(n: int) -> None:
    low, high = np.transpose([wilson(k, n) for k in range(n + 1)])
    proportions = np.arange(1, 200) / 200
    coverages = [binom.pmf(np.arange(n + 1), n, p) @ ((low <= p) & (p <= high)) for p in proportions]
    assert np.mean(coverages) == pytest.approx(0.95, abs=0.005)
    assert min(coverages) > 0.87  # near 0 and 1 it dips: Brown, Cai and DasGupta, 2001


def test_a_higher_level_is_wider_and_more_trials_are_narrower() -> None:
    low, high = wilson(30, 100)
    assert wilson(30, 100, level=0.99)[0] < low < 0.3 < high < wilson(30, 100, level=0.99)[1]
    assert low < wilson(300, 1000)[0] < wilson(300, 1000)[1] < high


@pytest.mark.parametrize(("right", "n"), [(-1, 10), (11, 10), (0, 0), (math.nan, 10)])
def test_counts_out_of_range_are_one_line(right: float, n: int) -> None:
    with pytest.raises(ValueError, match=r"^wilson: wanted 0 <= right <= n and n >= 1, got [^\n]*$"):
        wilson(right, n)


def answers(rng: np.random.Generator, S: int, M: int, c: float = 1.5, seed_effect: float = 0.6) -> np.ndarray:
    logit = c + rng.normal(0, 2, M) + rng.normal(0, seed_effect, (S, 1))
    return rng.random((S, M)) < expit(logit)


def with_half_width(p: float, half: float) -> tuple[float, float]:
    """The ends x of the interval, where |p - x| is `half` as wide as x (1 - x) is beside p (1 - p)."""
    squared = half**2 / (p * (1 - p))
    ends = np.roots([1 + squared, -2 * p - squared, p * p])
    return min(ends), max(ends)


def test_one_seed_has_wilsons_interval() -> None:
    right = answers(np.random.default_rng(0), 1, 200)
    assert accuracy(right) == (right.mean(), *wilson(right.sum(), 200)) == accuracy(right[0])


def test_where_seeds_alone_vary_the_interval_is_students_over_the_seeds() -> None:
    of_seed = np.array([1, 1, 0, 1, 0])
    half = stdtrit(4, 0.975) * of_seed.std(ddof=1) / 5**0.5
    assert accuracy(np.tile(of_seed[:, None], 300))[1:] == pytest.approx(with_half_width(0.6, half), abs=1e-5)


def test_where_items_alone_vary_the_interval_is_students_over_the_items() -> None:
    of_item = answers(np.random.default_rng(1), 1, 100)
    half = stdtrit(99, 0.975) * of_item.std(ddof=1) / 100**0.5
    expected = pytest.approx(with_half_width(of_item.mean(), half), abs=1e-6)
    assert accuracy(np.repeat(of_item, 5, axis=0))[1:] == expected  # five equal seeds tell no more than one
    assert accuracy(np.repeat(of_item, 7, axis=1), [str(i // 7) for i in range(700)])[1:] == expected  # nor copies


def test_seeds_that_agree_on_everything_count_the_items_once() -> None:
    assert accuracy(np.ones((5, 40))) == (1.0, *wilson(40, 40))
    assert accuracy(np.zeros((5, 40))) == (0.0, *wilson(0, 40))
    assert accuracy(np.ones((1, 40)), [str(i // 4) for i in range(40)]) == (1.0, *wilson(10, 10))


def test_the_order_of_seeds_and_items_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    right, groups = answers(rng, 4, 60), [f"author {i % 13}" for i in range(60)]
    seeds, items = rng.permutation(4), rng.permutation(60)
    shuffled = right[seeds][:, items]
    assert accuracy(shuffled) == pytest.approx(accuracy(right), abs=1e-12)
    assert accuracy(shuffled, [groups[i] for i in items]) == pytest.approx(accuracy(right, groups), abs=1e-12)


def test_the_interval_holds_its_value_and_stays_in_the_unit_interval() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        S, M = rng.integers(1, 6), rng.integers(2, 30)
        right = rng.random((S, M)) < rng.choice([0.02, 0.3, 0.98])
        for found in (accuracy(right), accuracy(right, [str(i // 2) for i in range(M)]) if M > 2 else accuracy(right)):
            assert 0 <= found.low <= found.value <= found.high <= 1 and found.low < found.high


def test_even_a_table_whose_means_are_all_equal_has_a_width() -> None:
    checkers = np.indices((4, 6)).sum(axis=0) % 2  # neither seeds nor items differ, and yet something varies
    found = accuracy(checkers)
    assert found.value == 0.5 and found.high - found.low > 0.1


def test_groups_of_one_item_are_items_and_groups_that_agree_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    alike = np.repeat(answers(rng, 5, 20, seed_effect=0.1), 10, axis=1)
    alone, grouped = accuracy(alike), accuracy(alike, [str(i // 10) for i in range(200)])
    assert accuracy(alike, [str(i) for i in range(200)]) == pytest.approx(alone, abs=1e-12)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_the_intervals_hold_the_truth_where_pooled_answers_do_not() -> None:
    rng, S, M = np.random.default_rng(5), 5, 100
    truth = float(expit(1.5 + rng.normal(0, np.hypot(2, 0.6), 10**6)).mean())
    tables = [answers(rng, S, M) for _ in range(300)]
    held = np.mean([found.low <= truth <= found.high for found in map(accuracy, tables)])
    pooled = np.mean([low <= truth <= high for low, high in (wilson(table.sum(), S * M) for table in tables)])
    assert held > 0.92
    assert pooled < 0.75


def test_macro_f1_is_scikit_learns_whatever_the_classes_are_called() -> None:
    rng = np.random.default_rng(6)
    truth = rng.choice(3, 90, p=[0.6, 0.3, 0.1])
    predictions = np.where(rng.random((4, 90)) < 0.6, truth, rng.choice(3, (4, 90)))
    found = macro_f1(truth, predictions)
    assert found.value == pytest.approx(np.mean([f1_score(truth, row, average="macro") for row in predictions]))
    assert found.low < found.value < found.high
    names = np.array(["zebra", "ape", "cow"])
    assert macro_f1(names[truth], names[predictions]) == pytest.approx(found, abs=1e-12)


def test_macro_f1_of_what_is_all_right_is_an_accuracy_of_one() -> None:
    truth = ["a", "b", "b", "a", "b"]
    assert macro_f1(truth, [truth, truth]) == Estimate(1.0, *wilson(5, 5))
    assert macro_f1(truth, ["b", "a", "a", "b", "a"]) == Estimate(0.0, *wilson(0, 5))


def test_of_one_predictor_macro_f1_strays_as_the_bootstrap_says() -> None:
    rng = np.random.default_rng(7)
    truth = rng.choice(3, 500, p=[0.5, 0.3, 0.2])
    said = np.where(rng.random(500) < 0.7, truth, rng.choice(3, 500))
    draws = rng.integers(500, size=(400, 500))
    strays = np.std([macro_f1(truth[draw], said[draw]).value for draw in draws])
    found = macro_f1(truth, said)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * strays, rel=0.12)


def test_a_class_that_is_predicted_but_never_true_only_costs_the_true_ones() -> None:
    assert macro_f1(["a", "a", "b", "b"], ["a", "a", "b", "c"]).value == pytest.approx((1 + 2 / 3) / 2)


def test_tables_without_a_shape_or_with_one_group_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^correct: wanted a table of seeds by items, \(S, M\), got [^\n]*$"):
        accuracy(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match=r"^correct: wanted a table [^\n]*$"):
        accuracy(np.ones((2, 0)))
    with pytest.raises(ValueError, match=r"^groups: wanted one for each of 4 items, got 3$"):
        accuracy(np.ones((2, 4)), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"^an interval over items wants at least 2 [^\n]*, got 1$"):
        accuracy(np.eye(4), ["one author"] * 4)
    with pytest.raises(ValueError, match=r"^macro_f1: wanted \(S, M\) predictions of \(M,\) labels, got [^\n]*$"):
        macro_f1(["a", "b"], [["a", "b", "a"]])
