"""The spread of in-context learning, taken apart."""

import numpy as np
import pytest

from chainrule.uncertainty import spread


def planted(rng: np.random.Generator, shape: tuple[int, int, int], examples: float, order: float, items: float):
    sets, orders, M = shape
    return (
        0.7
        + rng.normal(0, examples, (sets, 1, 1))
        + rng.normal(0, order, (sets, orders, 1))
        + rng.normal(0, items, M)
        + rng.normal(0, 0.1, (sets, 1, M))  # sets suit some items
        + rng.normal(0, 0.2, shape)
    )


def test_planted_standard_deviations_are_recovered() -> None:
    rng = np.random.default_rng(0)
    found = spread(planted(rng, (300, 20, 300), examples=0.08, order=0.03, items=0.3))
    assert found == pytest.approx((0.08, 0.03, 0.3), rel=0.1)


def test_five_sets_and_three_orders_recover_them_on_average() -> None:
    rng = np.random.default_rng(1)
    found = [spread(planted(rng, (5, 3, 100), examples=0.1, order=0.05, items=0.3)) for _ in range(300)]
    assert np.mean(np.square(found), axis=0) == pytest.approx([0.1**2, 0.05**2, 0.3**2], rel=0.12)


def test_what_alone_varies_is_all_that_is_found() -> None:
    values = np.array([0.1, 0.5, 0.2, 0.9])
    deviation = values.std(ddof=1)
    everywhere = np.ones((4, 4, 4))
    assert spread(everywhere * values[:, None, None]) == pytest.approx((deviation, 0, 0))
    assert spread(everywhere * values) == pytest.approx((0, 0, deviation))
    of_order = np.array([[0.1, 0.5], [0.5, 0.1]])  # the sets' means are equal
    assert spread(np.ones((2, 2, 3)) * of_order[:, :, None]) == pytest.approx((0, 0.4 / 2**0.5, 0))


def test_the_order_of_sets_orders_and_items_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    right = rng.random((5, 3, 80)) < 0.6 + rng.normal(0, 0.1, (5, 1, 1))
    shuffled = right[rng.permutation(5)][:, ::-1][:, :, rng.permutation(80)]
    assert spread(shuffled) == pytest.approx(spread(right), abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 80), (1, 3, 80), (5, 1, 80), (5, 3, 1)])
def test_what_cannot_vary_is_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^spread: wanted \(sets, orders, items\), at least 2 of each, got [^\n]*$"):
        spread(np.ones(shape))
