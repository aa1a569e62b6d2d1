"""Laws of the plan."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from comparison_fakes import FAKE_METHODS, Fakes, made_task

from chainrule.comparison.grid import Bounds, Planned, checked_sizes, grid_sizes, plan
from chainrule.comparison.methods.method import every_size
from chainrule.comparison.pace import Pace
from chainrule.comparison.plan_in_words import too_late
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


def test_no_method_waits_for_many_labels_of_another_that_takes_more_in_all() -> None:
    rows = planned(sizes=(4, 16), trains=99, seeds=2)
    in_all: dict[Any, float] = {}
    for row in rows:
        in_all[row.key[:2]] = in_all.get(row.key[:2], 0.0) + row.seconds
    up_to = [sum(took for (name, n), took in in_all.items() if name == row.key[0] and n <= row.key[1]) for row in rows]
    assert up_to == pytest.approx(sorted(up_to)) and len(set(up_to)) > 10


def sharing(tests: int, names: tuple[str, ...] = ("head", "centroid")) -> list[Planned]:
    """A second a text, and half a second a row: methods of which some read the same texts."""
    study: Any = SimpleNamespace(task=made_task(trains=200), most_shots=MOST_SHOTS, seconds_a_text=1.0)
    methods = [
        replace(
            method, seconds=lambda study, labels, tests: labels + tests + 0.5, sizes=every_size, shares_features=shares
        )
        for method in FAKE_METHODS
        if (shares := method.name in names) or method.name == "lora"
    ]
    return plan(study, methods, (4, 16, 64), 3, tests)


def test_each_text_that_methods_share_is_counted_once() -> None:
    rows = sharing(tests=100)
    seconds = Pace().one_after_another(rows)
    shared = [took for row, took in zip(rows, seconds, strict=True) if row.key.method != "lora"]
    assert (
        sum(took - 0.5 for took in shared) == 100 + 3 * 64
    )  # the test items, and each seed's labels, which are nested
    assert shared[0] == 100 + 4 + 0.5 and shared[-1] == 0.5
    for row, took in zip(rows, seconds, strict=True):
        assert row.seconds == row.key.labels + 100 + 0.5 and (row.key.method != "lora" or took == row.seconds)
    assert [row.key.method for row in rows].index("lora") >= len(shared) - 6  # it takes more than what is shared


def test_what_is_shared_is_not_free_for_others_where_the_row_that_would_read_it_first_is_left_out() -> None:
    rows = sharing(tests=100)
    assert too_late(rows, 60.0) == rows
    assert [row.key.method for row in rows if row not in too_late(rows, 130.0)].count("lora") == 0
    assert len(rows) - len(too_late(rows, 130.0)) > 6


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
