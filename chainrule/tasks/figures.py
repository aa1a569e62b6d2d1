"""How good predictions of several labels at once, or of numbers, are on a task's test items. Knows predictions, not how
they were made.

Shapes: S seeds, M test items, C labels.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainrule import uncertainty
from chainrule.errors import ChainruleError, DataError
from chainrule.tasks.answers import Answer, Kind, targets_of
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.measure import held_out
from chainrule.tasks.predictor import Predictor
from chainrule.uncertainty import Estimate

TITLES = {
    "accuracy": "accuracy",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "lrap": "label ranking average precision",
    "r2": "R²",
    "spearman": "Spearman's correlation",
    "rmse": "RMSE",
}
MAIN: Mapping[Kind, str] = {  # what methods are compared by: 1 is perfect
    "classification": "accuracy",
    "free": "accuracy",
    "multilabel": "micro_f1",
    "regression": "r2",
}


@dataclass(frozen=True)
class Figures:
    """The figures of a predictor on the test items."""

    estimates: Mapping[str, Estimate]  # micro_f1, macro_f1, lrap; or rmse, spearman, r2
    baseline: Mapping[str, float]  # the same of the best constant answer: the most frequent labels, or the mean
    n: int  # test items
    seconds: float  # that the predictions took


def measure_figures(predictor: Predictor, task: Task, limit: int | None = None) -> Figures:
    """The figures on the test items, or on `limit` of them, with 95 % intervals over items like these.

    Of several labels at once micro-F1, macro-F1 over the labels that an item has, and label ranking average precision;
    of numbers the root of the mean squared error, Spearman's rank correlation and R². Raises ChainruleError for a
    single item, and for items whose numbers are all the same.
    """
    items = held_out(task, limit)
    start = time.perf_counter()
    answers, outputs = zip(*predictor.stream(items.rows), strict=True)
    seconds = time.perf_counter() - start
    estimates = estimates_of(task.kind, task.labels, items, [answers], np.array([outputs]))
    constant, shares = constant_answer(task.kind, task.labels, task.train)
    alike = estimates_of(task.kind, task.labels, items, [[constant] * len(items)], np.tile(shares, (1, len(items), 1)))
    return Figures(estimates, {name: one.value for name, one in alike.items()}, len(items), seconds)


def check_test_items(task: Task, limit: int | None = None) -> None:
    """DataError where the test items, or `limit` of them, give no figure with an interval, whatever is predicted: those
    of one group alone, or with one number in all of them."""
    items = held_out(task, limit)
    try:
        if task.kind in ("multilabel", "regression"):
            constant, shares = constant_answer(task.kind, task.labels, task.train)
            alike = np.tile(shares, (1, len(items), 1))
            estimates_of(task.kind, task.labels, items, [[constant] * len(items)], alike)
        else:
            uncertainty.accuracy(np.zeros((1, len(items)), bool), items.groups)
    except ChainruleError as error:
        raise DataError(f"{task.path or 'task'}: test items: {error}; add some, or raise --limit") from None


def estimates_of(
    kind: Kind,
    labels: Sequence[str],
    items: Examples,
    answers: Sequence[Sequence[Answer]],
    probabilities: NDArray[np.floating],
) -> dict[str, Estimate]:
    """The figures of S seeds' answers (S, M), by name; `probabilities` (S, M, C) are unused where they are numbers."""
    if kind == "regression":
        truth, numbers = np.array(items.labels, np.float64), np.array(answers, np.float64)
        return {
            "rmse": uncertainty.rmse(truth, numbers, items.groups),
            "spearman": uncertainty.spearman(truth, numbers, items.groups),
            "r2": uncertainty.r_squared(truth, numbers, items.groups),
        }
    targets = targets_of(kind, items.labels, labels)
    found = np.stack([targets_of(kind, of_seed, labels) for of_seed in answers])
    return {
        "micro_f1": uncertainty.micro_f1(targets, found, items.groups),
        "macro_f1": uncertainty.macro_f1_of_labels(targets, found, items.groups),
        "lrap": uncertainty.ranking_precision(targets, probabilities, items.groups),
    }


def constant_answer(kind: Kind, labels: Sequence[str], train: Examples) -> tuple[Answer, NDArray[np.float64]]:
    """The best answer that reads no text, and the shares of the labels (C,).

    The most frequent label or set of labels, of several the first; of numbers the mean, which has no shares (0,), nor
    have free answers.
    """
    if kind == "regression":
        return float(np.mean(np.array(train.labels, np.float64))), np.empty(0)
    (most_frequent, _), *_ = Counter(sorted(train.labels)).most_common(1)
    if kind == "multilabel":
        return most_frequent, targets_of(kind, train.labels, labels).mean(0)
    return most_frequent, np.array([np.mean([label == each for each in train.labels]) for label in labels])


def in_unit(name: str, value: float) -> str:
    """A figure for a person: RMSE in the numbers' unit, a correlation as it is, all others in percent."""
    if name in ("rmse", "spearman"):
        return f"{value:.3g}"
    return f"{100 * value:.1f} %"
