"""Wilson's interval holds what it promises."""

import math

import pytest

from chainrule.statistics import wilson


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


def binomial(n: int, p: float) -> list[float]:
    """The probability of each count 0..n."""
    return [
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(p)
            + (n - k) * math.log1p(-p)
        )
        for k in range(n + 1)
    ]


@pytest.mark.parametrize("n", [100, 200])
def test_ninety_five_percent_intervals_hold_the_proportion_ninety_five_times_of_a_hundred(n: int) -> None:
    intervals = [wilson(k, n) for k in range(n + 1)]
    proportions = [step / 200 for step in range(1, 200)]
    coverages = [
        sum(mass for mass, (low, high) in zip(binomial(n, p), intervals, strict=True) if low <= p <= high)
        for p in proportions
    ]
    assert sum(coverages) / len(coverages) == pytest.approx(0.95, abs=0.005)
    assert min(coverages) > 0.87  # near 0 and 1 it dips: Brown, Cai and DasGupta, 2001


def test_a_higher_level_is_wider_and_more_trials_are_narrower() -> None:
    low, high = wilson(30, 100)
    assert wilson(30, 100, level=0.99)[0] < low < 0.3 < high < wilson(30, 100, level=0.99)[1]
    assert low < wilson(300, 1000)[0] < wilson(300, 1000)[1] < high


@pytest.mark.parametrize(("right", "n"), [(-1, 10), (11, 10), (0, 0), (math.nan, 10)])
def test_counts_out_of_range_are_one_line(right: float, n: int) -> None:
    with pytest.raises(ValueError, match=r"^wilson: wanted 0 <= right <= n and n >= 1, got [^\n]*$"):
        wilson(right, n)
