"""The score of a predictor on a task's test items. Knows predictions and labels, not how they were made.

Shapes: D sets of demonstrations, O orders of each, M test items.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import DataError
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.predictor import Generating, Predictor
from chainrule.uncertainty import accuracy


@dataclass(frozen=True)
class Score:
    """How often a predictor is right."""

    accuracy: float
    interval: tuple[float, float]  # 95 %, of this predictor over test items like these
    n: int  # test items
    chance: float  # the accuracy of always answering the most frequent label of train
    seconds: float  # that the predictions took
    predictions: Sequence[str]
    right: NDArray[np.bool_]  # (n,)
    groups: Sequence[str] | None  # of the items, where the task names some
    answers: Sequence[str] | None = None  # the generated texts, where the model does not choose among labels


def held_out(task: Task, limit: int | None = None) -> Examples:
    """The test items, in their order; with a limit a fixed random sample of that size, as files are often sorted.

    A smaller sample is part of a larger one. Raises DataError for a limit below 1; one above their number is all.
    """
    if limit is None:
        return task.test
    if limit < 1:
        raise DataError(f"--limit: wanted at least 1 test item, got {limit}")
    return task.test.take(sorted(np.random.default_rng(0).permutation(len(task.test))[:limit].tolist()))


def measure(predictor: Predictor, task: Task, limit: int | None = None) -> Score:
    """The score on the test items, or on `limit` of them. Spaces around an answer do not count."""
    items = held_out(task, limit)
    answers = None
    start = time.perf_counter()
    if isinstance(predictor, Generating) and predictor.generates:
        answers = list(predictor.answers(items.rows))
        predictions = [predictor.label_of(answer) for answer in answers]
    else:
        predictions = predictor.predict(items.rows)
    seconds = time.perf_counter() - start
    right = right_answers(predictions, items)
    estimate = accuracy(right[None], items.groups)
    most_frequent, _ = Counter(sorted(task.train.labels)).most_common(1)[0]
    return Score(
        estimate.value,
        (estimate.low, estimate.high),
        len(items),
        chance=float(right_answers([most_frequent] * len(items), items).mean()),
        seconds=seconds,
        predictions=predictions,
        right=right,
        groups=items.groups,
        answers=answers,
    )


def correctness(
    make: Callable[[int, int], Predictor], task: Task, *, sets: int = 5, orders: int = 3, limit: int | None = None
) -> NDArray[np.bool_]:
    """Which items predictors with other demonstrations, and with these in other orders, get right: (D, O, M).

    `make(seed, order)` gives one, as `lambda seed, order: in_context(lm, task, 16, seed=seed, order=order)` does.
    `chainrule.uncertainty.spread` separates the variance due to demonstrations, orders and items.
    """
    if sets < 1 or orders < 1:
        raise DataError(f"spread: wanted at least 1 set of demonstrations and 1 order, got {sets} and {orders}")
    items = held_out(task, limit)
    return np.array(
        [
            [right_answers(make(seed, order).predict(items.rows), items) for order in range(orders)]
            for seed in range(sets)
        ]
    )


def right_answers(predictions: Sequence[str], items: Examples) -> NDArray[np.bool_]:
    """(n,): which predictions are the expected ones, spaces around them aside."""
    return np.array([one.strip() == label.strip() for one, label in zip(predictions, items.labels, strict=True)])
