"""Differences of predictors, their tests, and families of tests."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, binomtest, ttest_1samp

from chainrule.uncertainty import Direction, accuracy, adjusted_together, difference, holm, mcnemar, tango


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [(1, 7, 0.0390625), (0, 0, 1.0), (3, 3, 1.0), (0, 6, 1 / 64)],  # the first: Fagerland, Lydersen and Laake, 2013
)
def test_mcnemar_gives_the_published_mid_p_values(only_a: int, only_b: int, p_value: float) -> None:
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a) == pytest.approx(p_value, abs=1e-12)


def test_mid_p_is_the_exact_test_less_half_of_what_was_seen_on_either_side() -> None:
    for a, b in itertools.product(range(12), range(1, 12)):
        exact = binomtest(a, a + b).pvalue
        seen = binom.pmf(a, a + b, 0.5) * (1 if a != b else 0.0)
        assert mcnemar(a, b) == pytest.approx(exact - seen, abs=1e-12)


def test_tango_gives_the_published_interval() -> None:
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=6e-4)  # Fagerland, Lydersen and Laake, 2014


def constrained(only_a: int, only_b: int, n: int, delta: float) -> float:
    """The chi-square score of `delta`, its nuisance found by trying a million values."""
    p = np.linspace(max(-delta, 0), (1 - delta) / 2, 1_000_001)[1:-1]  # of only b
    log_likelihood = only_a * np.log(p + delta) + only_b * np.log(p) + (n - only_a - only_b) * np.log1p(-2 * p - delta)
    best = p[log_likelihood.argmax()]
    return float((only_a - only_b - n * delta) ** 2 / (n * (2 * best + delta - delta**2)))


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(40, 20, 160), (3, 1, 30), (0, 5, 50)])
def test_the_ends_of_tangos_interval_lie_at_the_normal_quantile(only_a: int, only_b: int, n: int) -> None:
    for end in tango(only_a, only_b, n):
        assert constrained(only_a, only_b, n, end) == pytest.approx(1.959964**2, rel=1e-3)


def test_tango_without_disagreement_and_at_the_ends() -> None:
    limit = 1.959964**2 / (100 + 1.959964**2)
    assert tango(0, 0, 100) == pytest.approx((-limit, limit), abs=1e-6)
    assert tango(10, 0, 10)[1] == 1.0 and tango(0, 10, 10)[0] == -1.0
    low, high = tango(9, 4, 60)
    assert tango(4, 9, 60) == pytest.approx((-high, -low), abs=1e-12)


def answers(rng: np.random.Generator, easy: np.ndarray, S: int, seed_effect: float = 0.5) -> np.ndarray:
    logit = 1 + easy + rng.normal(0, 1, len(easy)) + rng.normal(0, seed_effect, (S, 1))
    return rng.random((S, len(easy))) < expit(logit)


def pair(seed: int, S: int, M: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    easy = rng.normal(0, 1.75, M)
    return answers(rng, easy, S), answers(rng, easy, S)


def test_two_fixed_predictors_have_mcnemar_and_tango() -> None:
    a, b = pair(0, 1, 80)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    expected = ((only_a - only_b) / 80, *tango(only_a, only_b, 80), mcnemar(only_a, only_b))
    assert difference(a, b) == expected == difference(a[0], b[0])


def test_a_difference_turns_its_sign_and_is_that_of_the_accuracies() -> None:
    a, b = pair(1, 5, 120)
    there, back = difference(a, b), difference(b, a)
    assert there.value == pytest.approx(accuracy(a).value - accuracy(b).value)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert back.p_value == pytest.approx(there.p_value)


def test_the_interval_leaves_out_zero_when_the_p_value_is_below_a_twentieth() -> None:
    for seed in range(100):
        found = difference(*pair(seed, 3, 50))
        assert found.low <= found.value <= found.high
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def test_where_seeds_alone_vary_it_is_students_test_over_the_seeds() -> None:
    of_seed = np.array([1, 1, 0, 1, 1, 1])
    found = difference(np.tile(of_seed[:, None], 200), np.zeros((6, 200)))
    expected = ttest_1samp(of_seed, 0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-4)
    assert found.low == pytest.approx(expected.confidence_interval().low, abs=1e-5)


def test_with_groups_it_is_students_test_over_the_groups() -> None:
    a, b = pair(2, 1, 60)
    of_group = (a.astype(float) - b).reshape(12, 5).mean(axis=1)
    found = difference(a, b, [str(i // 5) for i in range(60)])
    assert found.p_value == pytest.approx(ttest_1samp(of_group, 0).pvalue, rel=1e-5)


def test_predictors_that_answer_alike_cannot_be_told_apart() -> None:
    a, _ = pair(3, 5, 100)
    assert difference(a, a) == (0.0, *tango(0, 0, 100), 1.0)


def test_a_fixed_predictor_stands_against_every_seed() -> None:
    a, b = pair(4, 5, 90)
    assert difference(a, b[:1]) == difference(a, np.repeat(b[:1], 5, axis=0))


def test_the_order_of_seeds_and_items_changes_nothing_if_it_is_the_same_for_both() -> None:
    a, b = pair(5, 4, 70)
    order = np.random.default_rng(0).permutation(70)
    assert difference(a[::-1, order], b[::-1, order]) == pytest.approx(difference(a, b), abs=1e-12)


def test_different_seeds_or_items_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^difference: wanted the same seeds and items, \(S, M\), got [^\n]*$"):
        difference(np.ones((3, 10)), np.ones((2, 10)))
    with pytest.raises(ValueError, match=r"^difference: wanted the same seeds and items[^\n]*$"):
        difference(np.ones((3, 10)), np.ones((3, 9)))
    with pytest.raises(ValueError, match=r"^tango: wanted counts of at most n >= 1 items, got 5 and 6 of 10$"):
        tango(5, 6, 10)


def test_holm_gives_the_textbook_values_in_the_order_they_came() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_lies_between_the_raw_value_and_bonferronis_and_keeps_the_order() -> None:
    values = np.random.default_rng(0).random(30) ** 3
    adjusted = np.array(holm(list(values)))
    assert (adjusted >= values).all() and (adjusted <= np.minimum(30 * values, 1)).all()
    assert (np.diff(adjusted[values.argsort()]) >= 0).all()
    assert holm(list(values[::-1])) == list(adjusted[::-1])


def test_families_of_equal_methods_seldom_err_however_much_three_seeds_differ() -> None:
    rng, errors = np.random.default_rng(6), 0
    for _ in range(150):
        easy = rng.normal(0, 1.75, 200)
        methods = [answers(rng, easy, S=3, seed_effect=0.6) for _ in range(5)]
        errors += min(holm([difference(a, b).p_value for a, b in itertools.combinations(methods, 2)])) <= 0.05
    assert errors / 150 <= 0.08  # at most .05 in the long run; .08 is more than one and a half standard errors above


def test_tests_that_err_together_count_as_one_and_independent_ones_as_many() -> None:
    values = [0.01, 0.2, 0.04, 0.6]
    independent = adjusted_together(values, np.diag([1.0, 4.0, 0.5, 9.0]))
    assert independent[0] == pytest.approx(1 - 0.99**4, abs=0.006)
    assert independent[2] == pytest.approx(1 - 0.96**3, abs=0.01)
    assert adjusted_together(values, np.ones((4, 4))) == pytest.approx(values, abs=0.015)


def test_adjusted_together_lies_between_the_raw_value_and_holms_and_keeps_the_order() -> None:
    rng = np.random.default_rng(7)
    values, loadings = rng.random(12) ** 4, rng.normal(size=(12, 5))
    adjusted = adjusted_together(list(values), loadings @ loadings.T)
    assert (np.array(adjusted) >= values).all()
    assert (np.array(adjusted) <= np.array(holm(list(values))) + 1e-12).all()
    assert (np.diff(np.array(adjusted)[values.argsort()]) >= 0).all()
    turned = adjusted_together(list(values[::-1]), 100 * (loadings @ loadings.T)[::-1, ::-1])
    assert turned[::-1] == pytest.approx(adjusted, abs=1e-12)  # the order and the scale change nothing


def test_the_level_is_divided_between_the_directions_as_asked() -> None:
    values, errors = [0.01, 0.2, 0.04, 0.6], np.diag([1.0, 4.0, 0.5, 9.0])
    plain = adjusted_together(values, errors)
    assert adjusted_together(values, errors, [Direction(False), *[Direction(True)] * 3]) == plain
    above, below = (adjusted_together(values, errors, [Direction(way, 0.9)] * 4) for way in (True, False))
    assert above[0] == pytest.approx(1 - (1 - 0.005 / 0.9) ** 4, abs=0.004)
    assert below[0] == pytest.approx(1 - (1 - 0.005 / 0.1) ** 4, abs=0.01)
    assert all(value <= one <= other for value, one, other in zip(values, above, below, strict=True))


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_a_family_errs_as_seldom_whatever_share_a_direction_has(correlation: float) -> None:
    rng, n, errors = np.random.default_rng(8), 4, 0
    covariance = correlation + (1 - correlation) * np.eye(n)
    for drawn in rng.multivariate_normal(np.zeros(n), covariance, 200):
        p_values = [2 * NormalDist().cdf(-abs(value)) for value in drawn]
        directions = [Direction(value > 0, (0.5, 0.9, 1.0)[i % 3]) for i, value in enumerate(drawn)]
        errors += min(adjusted_together(p_values, covariance, directions)) <= 0.05
    assert errors / 200 <= 0.085  # at most .05 in the long run; .085 is more than two standard errors above


def test_adjusted_together_of_nothing_of_one_and_of_errors_without_variance() -> None:
    assert adjusted_together([], np.zeros((0, 0))) == []
    assert adjusted_together([0.03], [[2.0]]) == [0.03]
    for rounding in (0.0, -1e-19):
        assert adjusted_together([1.0, 0.5], np.diag([rounding, 0.0])) == pytest.approx([1.0, 0.75], abs=0.02)
    with pytest.raises(ValueError, match=r"^adjusted_together: wanted a covariance of 2 errors, got \(3, 3\)$"):
        adjusted_together([0.1, 0.2], np.eye(3))
