"""Runs one row of a comparison: fits a method to N labels, asks it about the test items, and judges the answers.

Shapes: M test items, C classes.
"""

import time
from typing import TYPE_CHECKING

import numpy as np

from chainrule.comparison.grid import Key
from chainrule.comparison.methods.method import Method
from chainrule.comparison.rows import Outcome, rounded
from chainrule.tasks.examples import Examples
from chainrule.tasks.figures import MAIN, estimates_of
from chainrule.uncertainty import accuracy, calibration, macro_f1

if TYPE_CHECKING:
    from chainrule.comparison.study import Study


def run_row(study: "Study", items: Examples, method: Method, key: Key) -> Outcome:
    """The row, run: its method fitted, the test items answered, and the answers judged."""
    labels, seed = key.labels, key.seed
    shared = study.share(labels, seed, items.rows) if method.shares_features else (0.0, 0.0)
    start = time.perf_counter()
    predictor = method.fit(study, labels, seed)
    fitted = time.perf_counter()
    kind, of_labels = study.task.kind, np.empty((len(items), 0))
    if kind == "classification":
        found = predictor.predict_proba(items.rows)  # (M, C)
        predictions = [predictor.labels[index] for index in found.argmax(1)]
    elif kind in ("multilabel", "regression"):
        answered = list(predictor.stream(items.rows))
        predictions, of_labels = [answer for answer, _ in answered], np.array([found for _, found in answered])
    else:
        predictions = predictor.predict(items.rows)
    end = time.perf_counter()

    f1 = calibrated = probabilities = figures = None
    if kind in ("multilabel", "regression"):
        probabilities = rounded(of_labels) if kind == "multilabel" else None
        estimates = estimates_of(kind, study.task.labels, items, [predictions], np.array([of_labels]))
        estimate = estimates.pop(MAIN[kind])
        figures = {name: one.value for name, one in estimates.items()}
        f1 = figures.pop("macro_f1", None)
    else:
        correct = [one.strip() == label.strip() for one, label in zip(predictions, items.labels, strict=True)]
        estimate = accuracy(np.array(correct), items.groups)
    if kind == "classification":
        number = {label: index for index, label in enumerate(study.task.labels)}
        columns = [list(predictor.labels).index(label) for label in study.task.labels]
        truth = np.array([number[label] for label in items.labels])
        f1 = macro_f1(truth, np.array([number[label] for label in predictions])).value
        measured = calibration(found[:, columns], truth)
        calibrated = {**measured._asdict(), "bins": [one._asdict() for one in measured.bins]}
        probabilities = rounded(found[:, columns])
    adapting, predicting = shared
    return Outcome(
        method=method.name,
        labels=labels,
        shots=getattr(predictor, "shots", 0),
        seed=seed,
        accuracy=estimate.value,
        interval=(estimate.low, estimate.high),
        macro_f1=f1,
        calibration=calibrated,
        seconds_to_adapt=adapting + fitted - start,
        milliseconds_per_text=1000 * (predicting + end - fitted) / len(items),
        notes=method.notes(study, predictor, items.rows),
        predictions=predictions,
        probabilities=probabilities,
        megabytes_to_keep=method.megabytes(study),
        figures=figures,
    )
