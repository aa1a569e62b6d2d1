"""The baseline that reads no text: the most frequent label, or labels, or the mean. Knows labels alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from chainrule.comparison.methods.method import Colour, Method, Role, unless_all

if TYPE_CHECKING:
    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.tasks.examples import Task


def majority(task: Task, labels: int | None = None, seed: int = 0) -> TextPredictor:
    """The shares of the classes among the N labels, whatever the text; of several most frequent ones the first.

    Where answers are free, the most frequent answer alone; of several labels at once the most frequent set of them, and
    the share of each; of numbers their mean.
    """
    import numpy as np

    from chainrule.comparison.methods.text_predictor import TextPredictor
    from chainrule.tasks.figures import constant_answer

    examples = task.subset(labels, seed)
    if task.kind in ("multilabel", "regression"):
        constant, of_labels = constant_answer(task.kind, task.labels, examples)
        return TextPredictor(task, task.labels, lambda texts: np.tile(of_labels, (len(texts), 1)), constant)
    counts = Counter(examples.labels)
    names = task.labels or tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:1])
    shares = np.array([counts[name] for name in names], np.float64)
    shares /= shares.sum()
    return TextPredictor(task, names, lambda texts: np.tile(shares, (len(texts), 1)))


MAJORITY = Method(
    "majority",
    "always answering the most frequent label",
    Role.CONSTANT,
    Colour("#8f97a3", "#737c8a"),
    seconds=lambda study, labels, tests: 1e-3,
    fit=lambda study, labels, seed: majority(study.task, labels, seed),
    seeds_matter=unless_all,
)
