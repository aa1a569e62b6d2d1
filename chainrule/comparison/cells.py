"""A cell of the table: one method at one N, over its seeds. Knows predictions, not how they were made.

Shapes: S seeds, M test items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from chainrule.comparison.methods.method import Method
from chainrule.comparison.rows import Outcome
from chainrule.tasks.answers import Kind, targets_of
from chainrule.tasks.examples import Examples
from chainrule.tasks.figures import MAIN, TITLES, estimates_of
from chainrule.uncertainty import Estimate, SeedVariance, accuracy, macro_f1
from chainrule.uncertainty.label_sets import micro_f1_of_parts, micro_f1_parts
from chainrule.uncertainty.numbers import r_squared_of_parts, r_squared_parts
from chainrule.uncertainty.tables import by_group


@dataclass(frozen=True)
class Setting:
    """The model and the task of a comparison."""

    name: str  # the task's
    model: str  # in words
    kind: str
    text: Sequence[str]  # the text columns
    labels: Sequence[str]  # the classes
    everything: int  # the labels there are
    chance: float  # the accuracy of always answering the most frequent label of train, or the constant's main figure
    items: Examples  # the test items, M

    @property
    def measure(self) -> str:
        """The name of the figure that methods are compared by."""
        return MAIN[cast(Kind, self.kind)]

    @property
    def measure_title(self) -> str:
        """The same for a person."""
        return TITLES[self.measure]


class Calibration(NamedTuple):
    """How well the probabilities are calibrated: means over the seeds. The bins are the first seed's."""

    brier: float
    log_loss: float
    ece: float
    ece_expected: float  # of a perfectly calibrated method on as many items
    bins: Sequence[Mapping[str, float]]


class Cell:
    """One method at one N, over its seeds. `pooled`: what all cells of its table tell of the variance between seeds, by
    method and N."""

    def __init__(
        self,
        method: Method,
        outcomes: Sequence[Outcome],
        setting: Setting,
        pooled: Callable[[], Mapping[tuple[str, int], SeedVariance]] = dict,
    ) -> None:
        self.method, self.outcomes = method, sorted(outcomes, key=lambda outcome: outcome.seed)
        self.labels, self.shots = self.outcomes[0].labels, self.outcomes[0].shots
        self._setting, self._pooled = setting, pooled

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    @property
    def seeds(self) -> list[int]:
        return [outcome.seed for outcome in self.outcomes]

    @cached_property
    def correct(self) -> NDArray[Any]:
        """(S, M): which items were right. Of several labels at once, and of numbers, the parts whose mean is the main
        figure."""
        items = self._setting.items
        if self._setting.kind == "regression":
            return r_squared_parts(items.labels, [outcome.predictions for outcome in self.outcomes])
        if self._setting.kind == "multilabel":
            found = [targets_of("multilabel", one.predictions, self._setting.labels) for one in self.outcomes]
            return micro_f1_parts(targets_of("multilabel", items.labels, self._setting.labels), np.stack(found))
        truth = [label.strip() for label in self._setting.items.labels]
        return np.array([[found.strip() == label for found, label in zip(outcome.predictions, truth, strict=True)]
                         for outcome in self.outcomes])  # fmt: skip

    @cached_property
    def unchanging(self) -> bool:
        """Whether every seed gives the same predictor: by the method, or as all seeds were right on the same items."""
        if not self.method.seeds_matter(self.labels, self._setting.everything):
            return True
        return len(self.outcomes) > 1 and bool((self.correct == self.correct[0]).all())

    @property
    def right(self) -> NDArray[np.bool_]:
        """(S, M), or (1, M) of an unchanging predictor: no variance between seeds, and no S independent ones."""
        return self.correct[:1] if self.unchanging else self.correct

    @property
    def seed_variance(self) -> SeedVariance | None:
        """Of its accuracy; None of one seed, and of an unchanging predictor."""
        return self._pooled().get((self.name, self.labels))

    @cached_property
    def value(self) -> float:
        """The main figure without its interval, which takes longer to compute."""
        return float(by_group(self.right.astype(np.float64), self._setting.items.groups).mean())

    @cached_property
    def accuracy(self) -> Estimate:
        """With its interval; of several labels at once micro-F1, of a number R²."""
        of_parts = {"multilabel": micro_f1_of_parts, "regression": r_squared_of_parts}
        if self._setting.kind in of_parts:
            return of_parts[self._setting.kind](self.correct, self._setting.items.groups)
        return accuracy(self.right, self._setting.items.groups, self.seed_variance)

    @cached_property
    def figures(self) -> Mapping[str, Estimate]:
        """All figures of several labels at once, or of a number, by name; none where a row has one label."""
        if self._setting.kind not in ("multilabel", "regression"):
            return {}
        answers = [outcome.predictions for outcome in self.outcomes]
        probabilities: NDArray[np.floating] = np.stack(
            [np.empty((len(self._setting.items), 0)) if one.probabilities is None else one.probabilities
             for one in self.outcomes]
        )  # fmt: skip
        kind = cast(Kind, self._setting.kind)
        return estimates_of(kind, self._setting.labels, self._setting.items, answers, probabilities)

    @cached_property
    def macro_f1(self) -> Estimate | None:
        """None where answers are free, or numbers: there are no classes."""
        if self._setting.kind == "multilabel":
            return self.figures["macro_f1"]
        if self._setting.kind != "classification":
            return None
        number = {label: index for index, label in enumerate(self._setting.labels)}
        truth = np.array([number[label] for label in self._setting.items.labels])
        found = np.array([[number.get(label, -1) for label in outcome.predictions] for outcome in self.outcomes])
        return macro_f1(truth, found, self._setting.items.groups)

    @cached_property
    def calibration(self) -> Calibration | None:
        """None where there are no probabilities."""
        measured = [outcome.calibration for outcome in self.outcomes if outcome.calibration is not None]
        if not measured:
            return None
        means = {name: mean(one[name] for one in measured) for name in ("brier", "log_loss", "ece", "ece_expected")}
        return Calibration(**means, bins=measured[0]["bins"])

    @property
    def seconds_to_adapt(self) -> float:
        return median(outcome.seconds_to_adapt for outcome in self.outcomes)

    @property
    def milliseconds_per_text(self) -> float:
        return median(outcome.milliseconds_per_text for outcome in self.outcomes)

    @property
    def megabytes_to_keep(self) -> float | None:
        """The size of what is kept beside the pretrained model; None where it is unknown."""
        return self.outcomes[0].megabytes_to_keep

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for outcome in self.outcomes for note in outcome.notes))
