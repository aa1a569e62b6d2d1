"""What tables tell together of the variance between seeds."""

import numpy as np
import pytest
from scipy.special import expit, logit

from chainrule.uncertainty import SeedVariance, accuracy, difference, seed_variances, sum_if_equal, sum_of

SIZES = (16, 64, 256)


def answers(rng: np.random.Generator, S: int, M: int, seed_effect: float) -> np.ndarray:
    logit = 1.2 + rng.normal(0, 2, M) + rng.normal(0, seed_effect, (S, 1))
    return (rng.random((S, M)) < expit(logit)).astype(float)


def comparison(
    rng: np.random.Generator, effects: dict[str, float], S: int, M: int
) -> tuple[list[np.ndarray], list[str], list[int]]:
    cells = [(method, size) for method in effects for size in SIZES]
    tables = [answers(rng, S, M, effects[method]) for method, _ in cells]
    return tables, [method for method, _ in cells], [size for _, size in cells]


def typical(found: list[SeedVariance], methods: list[str], method: str) -> float:
    """The standard deviation from seed to seed, over the method's tables."""
    return float(np.exp(np.mean([np.log(one.typical()) for one, name in zip(found, methods, strict=True)
                                 if name == method]) / 2))  # fmt: skip


def test_a_method_that_varies_ten_times_as_much_is_not_taken_for_one_of_the_others() -> None:
    effects = {**dict.fromkeys("abcde", 0.1), "noisy": 1.0}
    noisy, quiet = [], []
    for seed in range(20):
        tables, methods, sizes = comparison(np.random.default_rng(seed), effects, 3, 300)
        found = seed_variances(tables, methods, sizes)
        noisy.append(typical(found, methods, "noisy"))
        quiet.append(typical(found, methods, "a"))
    assert 0.08 < np.exp(np.mean(np.log(noisy))) < 0.2  # 1.0 in log odds is .13 of accuracy here, 0.1 is .013
    assert 0.004 < np.exp(np.mean(np.log(quiet))) < 0.03


def test_intervals_of_two_seeds_hold_the_truth_for_the_noisy_method_and_are_short_for_the_others() -> None:
    effects = {**dict.fromkeys("abcde", 0.1), "noisy": 1.0}
    draws = np.random.default_rng(1).normal(0, 1, 10**6)
    truth = {method: float(expit(1.2 + np.hypot(2, effect) * draws).mean()) for method, effect in effects.items()}
    held: dict[str, list[bool]] = {method: [] for method in effects}
    widths = []
    for seed in range(60):
        tables, methods, sizes = comparison(np.random.default_rng(seed), effects, 2, 250)
        for table, method, variance in zip(tables, methods, seed_variances(tables, methods, sizes), strict=True):
            found = accuracy(table, seed_variance=variance)
            held[method].append(found.low <= truth[method] <= found.high)
            if method == "a":
                widths.append(found.high - found.low)
    assert np.mean(held["noisy"]) > 0.88 and np.mean(held["a"]) > 0.91
    assert np.mean(widths) < 0.14  # of one seed alone 0.11, of two by Student's t on one degree of freedom 0.3


def test_a_table_alone_tells_about_as_much_as_its_own_mean_squares() -> None:
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(30):
        table = answers(rng, 5, 200, 0.6)
        own, (variance,) = accuracy(table), seed_variances([table], ["only"], [64])
        found = accuracy(table, seed_variance=variance)
        ratios.append((found.high - found.low) / (own.high - own.low))
    assert 0.8 < np.mean(ratios) < 1.2


def test_the_order_of_tables_and_the_names_of_methods_change_nothing() -> None:
    rng = np.random.default_rng(3)
    tables, methods, sizes = comparison(rng, {"a": 0.1, "b": 0.3, "c": 1.0}, 3, 100)
    found = seed_variances(tables, methods, sizes)
    order = rng.permutation(len(tables))
    shuffled = seed_variances(*([some[i] for i in order] for some in (tables, [f"m{m}" for m in methods], sizes)))
    for place, index in enumerate(order):
        assert shuffled[place].weights == pytest.approx(found[index].weights, abs=1e-12)
        assert found[index].weights.sum() == pytest.approx(1)
    assert seed_variances([], [], []) == []


def test_tables_without_any_variance_and_tables_of_opposites_are_no_error() -> None:
    nothing, opposites = np.ones((3, 20)), np.array([[0.0] * 20, [1.0] * 20])
    for variance in seed_variances([nothing, opposites], ["a", "b"], [4, 4]):
        assert np.isfinite(variance.weights).all()


def test_the_variance_of_a_difference_is_the_sum_and_what_no_seed_changes_adds_none() -> None:
    tables, methods, sizes = comparison(np.random.default_rng(4), {"a": 0.1, "b": 0.6}, 3, 200)
    a, *_, b = seed_variances(tables, methods, sizes)
    both = sum_of(a, b)
    assert both is not None and both.weights.sum() == pytest.approx(1)
    assert both.values @ both.weights == pytest.approx(a.values @ a.weights + b.values @ b.weights)
    assert sum_of(a, None) is a and sum_of(None, b) is b and sum_of(None, None) is None


def test_with_a_known_variance_the_error_is_normal() -> None:
    table = answers(np.random.default_rng(5), 2, 2000, 0.3)
    other = answers(np.random.default_rng(6), 2, 2000, 0.3)
    known = SeedVariance(np.array([0.03**2]), np.array([1.0]))
    found = difference(table, other, seed_variance=known)
    item_means = (table - other).mean(axis=0)
    expected = 1.959964 * (0.03**2 / 2 + item_means.var(ddof=1) / 2000) ** 0.5
    assert found.high - found.value == pytest.approx(expected, rel=2e-3)
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def moved(p: float, effect: float) -> tuple[np.ndarray, SeedVariance]:
    """Two seeds by 1000 items with an accuracy of p, and the variance of seeds that move its log odds by `effect`."""
    table = np.repeat((np.arange(1000) < 1000 * p)[None], 2, axis=0).astype(float)
    return table, SeedVariance(np.array([(effect * p * (1 - p)) ** 2]), np.ones(1))


@pytest.mark.parametrize(("p", "q"), [(0.7, 0.7), (0.7, 0.85), (0.95, 0.5)])
def test_equal_methods_move_by_the_slope_of_accuracy_in_log_odds_between_them(p: float, q: float) -> None:
    (first, a), (second, b) = moved(p, 0.3), moved(q, 0.3)
    slope = p * (1 - p) if p == q else (p - q) / (logit(p) - logit(q))
    found, turned = sum_if_equal(first, second, a, b), sum_if_equal(second, first, b, a)
    assert found is not None and turned is not None
    assert found.values == pytest.approx([2 * (0.3 * slope) ** 2], rel=1e-2)
    assert turned.values == pytest.approx(found.values)
    fixed = sum_if_equal(first, second, a, None)
    assert fixed is not None and fixed.values == pytest.approx([(0.3 * slope) ** 2], rel=1e-2)
    assert sum_if_equal(first, second, None, None) is None


def test_methods_of_which_all_is_right_or_nothing_have_a_slope() -> None:
    (first, a), (second, b) = moved(1.0, 0.3), moved(0.0, 0.3)
    a = b = SeedVariance(np.array([1e-6]), np.ones(1))
    found = sum_if_equal(first, second, a, b)
    assert found is not None and np.isfinite(found.values).all() and (found.values > 0).all()
