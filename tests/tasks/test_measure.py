"""The score on the test items: counted right, and the same whatever their order."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from chainrule.tasks.examples import Examples, Row, Task
from chainrule.tasks.measure import correctness, held_out, measure
from chainrule.uncertainty import accuracy, wilson


def examples(labels: Iterable[str]) -> Examples:
    labels = list(labels)
    return Examples([{"text": f"row {place}"} for place in range(len(labels))], labels, [""] * len(labels))


TASK = Task("classification", ("text",), "label", examples("aab"), examples("a" * 6 + "b" * 4), ("a", "b"))


class Fixed:
    """Says the same of a text whoever asks: that its number is among those of class b."""

    def __init__(self, b: Iterable[int]) -> None:
        self.b = set(b)

    def predict(self, rows: Iterable[Row | str]) -> list[str]:
        rows = [row["text"] if isinstance(row, Mapping) else row for row in rows]
        return ["b" if int(row.split()[1]) in self.b else " a" for row in rows]


def fixed(b: Iterable[int]) -> Any:
    """A predictor that only predicts."""
    return Fixed(b)


def test_the_score_counts_what_is_right() -> None:
    score = measure(Fixed({5, 6, 7, 8}), TASK)
    assert (score.accuracy, score.n, score.chance) == (0.8, 10, 0.6)
    assert score.interval == pytest.approx(wilson(8, 10))
    assert score.seconds >= 0
    assert list(score.predictions) == [" a"] * 5 + ["b"] * 4 + [" a"]
    assert score.answers is None


def test_chance_is_the_most_frequent_label_of_train_not_of_test() -> None:
    task = replace(TASK, train=examples("abb"))
    assert measure(Fixed({}), task).chance == 0.4
    assert measure(Fixed({}), replace(TASK, train=examples("ba"))).chance == 0.6  # the first of equals


def test_groups_take_the_place_of_items() -> None:
    groups = ["x"] * 5 + ["y"] * 5
    task = replace(TASK, test=replace(TASK.test, groups=groups))
    right = np.array([[True] * 5 + [False] + [True] * 3 + [False]])
    score = measure(Fixed({5, 6, 7, 8}), task)
    wanted = accuracy(right, groups)
    assert (score.accuracy, *score.interval) == pytest.approx(wanted)


def test_a_limit_draws_the_same_items_always_and_fewer_are_among_more() -> None:
    drawn = [{row["text"] for row in held_out(TASK, limit).rows} for limit in range(1, 11)]
    assert [len(items) for items in drawn] == list(range(1, 11))
    assert all(fewer < more for fewer, more in pairwise(drawn))
    assert drawn[3] == {row["text"] for row in held_out(TASK, 4).rows}
    assert drawn[3] != {f"row {place}" for place in range(4)}  # a file may be sorted by class
    assert held_out(TASK, 99).rows == held_out(TASK).rows == TASK.test.rows
    assert measure(Fixed({}), TASK, limit=4).n == 4
    with pytest.raises(ValueError, match="limit: wanted at least 1 test item, got 0"):
        held_out(TASK, 0)


def test_correctness_has_a_set_an_order_and_an_item_on_each_axis() -> None:
    right = correctness(lambda seed, order: fixed({seed, 9 - order}), TASK, sets=4, orders=2)
    assert right.shape == (4, 2, 10)
    for seed in range(4):
        for order in range(2):
            said = np.isin(np.arange(10), [seed, 9 - order])
            assert (right[seed, order] == (said == (np.arange(10) >= 6))).all()
    assert correctness(lambda seed, order: fixed({}), TASK, limit=3).shape == (5, 3, 3)
    with pytest.raises(ValueError, match="spread: wanted at least 1 set"):
        correctness(lambda seed, order: fixed({}), TASK, sets=0)
