"""Laws of the plan."""

from typing import Any

import pytest
from comparison_fakes import FAKE_METHODS, Fakes, made_task

from chainrule.comparison.grid import Bounds, checked_sizes, grid_sizes, plan
from chainrule.comparison.study import MOST_SHOTS


def planned(*names: str, sizes=(4, 16, 64, 200), most_shots=MOST_SHOTS, trains=200, seeds=5):
    study = Fakes(made_task(trains=trains))
    study.most_shots = most_shots
    return plan(study, [one for one in FAKE_METHODS if not names or one.name in names], sizes, seeds, tests=10)


@pytest.mark.parametrize(
    ("smallest", "everything", "sizes"),
    [
        (4, 6920, (4, 16, 64, 256, 1024, 6920)),
        (4, 4, (4,)),
        (4, 17, (4, 17)),
        (4, 32, (4, 16, 32)),
        (5, 200, (5, 16, 64, 200)),
        (15, 200, (15, 64, 200)),
        (77, 10_000, (77, 256, 1024, 4096, 10_000)),
        (4, 3, (3,)),
    ],
)
def test_the_grid_goes_by_powers_of_4_from_the_smallest_to_all(smallest: int, everything: int, sizes) -> None:
    assert grid_sizes(smallest, everything) == sizes


def test_all_methods_have_the_same_seeds_at_the_same_sizes() -> None:
    rows = {row.key for row in planned()}
    for size in (4, 16, 64):
        for method in ("head", "full", "majority", "bag-of-words", "random-weights", "in-context-nearest"):
            assert {key.seed for key in rows if key[:2] == (method, size)} == set(range(5))


def test_what_no_seed_changes_is_run_once() -> None:
    seeds: dict[str, Any] = {}
    for row in planned():
        seeds.setdefault(row.key[:2], []).append(row.key.seed)
    once = {key for key, of_cell in seeds.items() if len(of_cell) == 1}
    assert once == {("zero-shot", 0), ("majority", 200), ("in-context-nearest", 200)}


def test_random_demonstrations_are_not_asked_for_beyond_the_first_size_that_fills_the_prompt() -> None:
    def sizes(most_shots: int) -> set[int]:
        return {row.key.labels for row in planned("in-context", most_shots=most_shots)}

    assert sizes(most_shots=MOST_SHOTS) == {4, 16}
    assert sizes(most_shots=10) == {4, 16}
    assert sizes(most_shots=3) == {4}
    assert sizes(most_shots=1) == {4}  # and the row will say that it did not fit


def test_the_nearest_are_taken_from_all_labels() -> None:
    assert {row.key.labels for row in planned("in-context-nearest")} == {4, 16, 64, 200}


def test_cheapest_first() -> None:
    rows = planned(sizes=(4, 16), trains=99, seeds=2)
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"methods": ("prayer",)}, "methods: wanted some of zero-shot, .*, got 'prayer'"),
        ({"methods": ()}, "wanted at least one"),
        ({"sizes": ()}, "wanted at least one"),
        ({"seeds": 0}, "seeds: wanted at least 1, got 0"),
        ({"limit": 1}, "limit: wanted at least 2, got 1"),
        ({"minutes": 0.0}, "minutes: wanted a time above 0"),
        ({"minutes": float("nan")}, "minutes: wanted a time above 0"),
    ],
)
def test_bounds_that_cannot_be_are_refused(bounds, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bounds(**bounds)


def test_sizes_out_of_range_are_refused_and_0_is_nothing_to_learn_from() -> None:
    assert checked_sizes((64, 0, 4, 64), least=2, everything=64) == (4, 64)
    for size in (1, 65, -4):
        with pytest.raises(ValueError, match=f"got {size}"):
            checked_sizes((size,), least=2, everything=64)
