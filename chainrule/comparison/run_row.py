"""Runs one row of a comparison: fits a method to N labels, asks it about the test items, and judges the answers.

Shapes: M test items, C classes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chainrule.comparison.grid import Key
from chainrule.comparison.methods.method import Method
from chainrule.comparison.rows import Outcome, rounded
from chainrule.tasks.answers import Answer
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.figures import MAIN, estimates_of
from chainrule.tasks.measure import right_answers
from chainrule.tasks.predictor import Predictor
from chainrule.uncertainty import Estimate, accuracy, calibration, macro_f1

if TYPE_CHECKING:
    from chainrule.comparison.study import Study


@dataclass(frozen=True)
class _Answers:
    """What a predictor says of the test items."""

    answers: Sequence[Answer]  # (M,)
    of_labels: NDArray[np.float64]  # (M, C) in the order of the task's labels; (M, 0) where there are no probabilities


@dataclass(frozen=True)
class _Judged:
    """The figures of answers, by the names of `Outcome`."""

    estimate: Estimate
    macro_f1: float | None = None
    calibration: Mapping[str, Any] | None = None
    figures: Mapping[str, float] | None = None


def run_row(study: "Study", items: Examples, method: Method, key: Key) -> Outcome:
    """The row, run: its method fitted, the test items answered, and the answers judged."""
    labels, seed = key.labels, key.seed
    adapting, predicting = study.share(labels, seed, items.rows) if method.shares_features else (0.0, 0.0)
    start = time.perf_counter()
    predictor = method.fit(study, labels, seed)
    fitted = time.perf_counter()
    found = _answered(study.task, predictor, items)
    end = time.perf_counter()
    judged = _judged(study.task, items, found)
    return Outcome(
        method=method.name,
        labels=labels,
        shots=getattr(predictor, "shots", 0),
        seed=seed,
        accuracy=judged.estimate.value,
        interval=(judged.estimate.low, judged.estimate.high),
        macro_f1=judged.macro_f1,
        calibration=judged.calibration,
        seconds_to_adapt=adapting + fitted - start,
        milliseconds_per_text=1000 * (predicting + end - fitted) / len(items),
        notes=method.notes(study, predictor, items.rows),
        predictions=found.answers,
        probabilities=rounded(found.of_labels) if study.task.kind in ("classification", "multilabel") else None,
        megabytes_to_keep=method.megabytes(study),
        figures=judged.figures,
    )


def _answered(task: Task, predictor: Predictor, items: Examples) -> _Answers:
    """The predictor's answers, which are classes, sets of labels, numbers or texts by the task's kind."""
    if task.kind == "classification":
        found = predictor.predict_proba(items.rows)  # (M, C)
        columns = [list(predictor.labels).index(label) for label in task.labels]
        return _Answers([predictor.labels[index] for index in found.argmax(1)], found[:, columns])
    if task.kind in ("multilabel", "regression"):
        answered = list(predictor.stream(items.rows))
        return _Answers([answer for answer, _ in answered], np.array([found for _, found in answered]))
    return _Answers(predictor.predict(items.rows), np.empty((len(items), 0)))


def _judged(task: Task, items: Examples, found: _Answers) -> _Judged:
    """The main figure with its interval, and those beside it that the task's kind has."""
    if task.kind in ("multilabel", "regression"):
        estimates = estimates_of(task.kind, task.labels, items, [found.answers], np.array([found.of_labels]))
        estimate = estimates.pop(MAIN[task.kind])
        figures = {name: one.value for name, one in estimates.items()}
        return _Judged(estimate, figures.pop("macro_f1", None), figures=figures)
    estimate = accuracy(right_answers(found.answers, items), items.groups)
    if task.kind != "classification":
        return _Judged(estimate)
    number = {label: index for index, label in enumerate(task.labels)}
    truth, chosen = (np.array([number[label] for label in each]) for each in (items.labels, found.answers))
    measured = calibration(found.of_labels, truth)
    calibrated = {**measured._asdict(), "bins": [one._asdict() for one in measured.bins]}
    return _Judged(estimate, macro_f1(truth, chosen).value, calibrated)
