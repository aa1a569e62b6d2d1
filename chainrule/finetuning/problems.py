"""What is learned beside the hidden states, by the kind of task: one label, several labels at once, or a number. Knows
labels and features, not whether the model is trained too.

Shapes: N examples, C outputs, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.errors import OptionError
from chainrule.finetuning.centred import HeadWeights
from chainrule.finetuning.head import solve_head
from chainrule.finetuning.label_heads import balancing, solve_label_heads
from chainrule.finetuning.logistic import classes_of
from chainrule.finetuning.recipes import Recipe
from chainrule.finetuning.ridge import solve_ridge
from chainrule.finetuning.trained import weights_of_classes
from chainrule.model.formats.classifier import head_has_bias
from chainrule.model.padding import Tokens
from chainrule.tasks.answers import Answer, Kind, targets_of
from chainrule.tasks.examples import Examples, Task
from chainrule.training.classes import Classes, LabelledTexts
from chainrule.training.epochs import Epochs
from chainrule.training.objectives import Objective
from chainrule.training.targets import Targets, TargetTexts, label_losses, squared_errors


@dataclass(frozen=True)
class Computing:
    """What an objective must know of the machine."""

    tokens_at_once: int
    device: torch.device

    def epochs(self, recipe: Recipe) -> Epochs:
        return Epochs(recipe.batch_size, self.tokens_at_once, self.device, recipe.seed)


class Problem(Protocol):
    """A head that is solved for on fixed features, and an objective for training it together with a model."""

    @property
    def kind(self) -> Kind: ...

    @property
    def outputs(self) -> Sequence[str]:
        """The name of each output: the classes; of a number its column."""

    def solve(self, features: NDArray[np.float32], answers: Sequence[Answer]) -> HeadWeights:
        """The head that is best on features (N, D) of rows with these answers."""
        ...

    def texts(self, documents: Sequence[Tokens], answers: Sequence[Answer]) -> Any:
        """Texts as tokens with what is to be predicted, as the objective takes them."""
        ...

    def objective(self, texts: Any, recipe: Recipe, computing: Computing) -> Objective[Any]:
        """The objective, with `validate(model, texts)`."""
        ...

    @property
    def unit(self) -> float:
        """What the outputs of the objective's texts are measured in; those of a head that `solve` gives are in 1."""
        ...

    @property
    def rate_factor(self) -> float:
        """By what the learning rates are multiplied."""
        ...


@dataclass(frozen=True)
class OneLabel:
    """The probabilities of the classes, by cross-entropy."""

    outputs: Sequence[str]
    balanced: bool  # every class counts the same, however rare
    seed: int
    kind: Kind = "classification"
    unit: float = 1.0
    rate_factor: float = 1.0

    def solve(self, features: NDArray[np.float32], answers: Sequence[Answer]) -> HeadWeights:
        classes = classes_of(answers, self.outputs)
        return HeadWeights(solve_head(features, classes, balanced=self.balanced, seed=self.seed))

    def texts(self, documents: Sequence[Tokens], answers: Sequence[Answer]) -> LabelledTexts:
        return LabelledTexts(documents, classes_of(answers, self.outputs))

    def objective(self, texts: LabelledTexts, recipe: Recipe, computing: Computing) -> Classes:
        return Classes(
            texts,
            weights_of_classes(texts.classes, len(self.outputs), balanced=self.balanced),
            computing.epochs(recipe),
            smoothing=recipe.smoothing,
        )


@dataclass(frozen=True)
class SeveralLabels:
    """The probability of each label by itself, by the cross-entropy of a sigmoid."""

    outputs: Sequence[str]
    balanced: bool  # the texts that have a label count as much as those that lack it
    seed: int
    bias: bool  # whether the head may have one
    kind: Kind = "multilabel"
    unit: float = 1.0
    rate_factor: float = 1.0

    def solve(self, features: NDArray[np.float32], answers: Sequence[Answer]) -> HeadWeights:
        targets = targets_of(self.kind, answers, self.outputs)
        return solve_label_heads(features, targets, balanced=self.balanced, seed=self.seed, bias=self.bias)

    def texts(self, documents: Sequence[Tokens], answers: Sequence[Answer]) -> TargetTexts:
        targets = targets_of(self.kind, answers, self.outputs)
        weights = balancing(targets) if self.balanced else np.ones_like(targets)
        return TargetTexts(documents, targets.astype(np.float32), weights.astype(np.float32))

    def objective(self, texts: TargetTexts, recipe: Recipe, computing: Computing) -> Targets:
        # smoothed towards each label's share: towards a half, all that a rare label's texts lack would be predicted
        return _targets(texts, recipe, computing, label_losses, recipe.smoothing)


@dataclass(frozen=True)
class Number:
    """A number, by squared error in the unit of the labels' standard deviation."""

    outputs: Sequence[str]
    bias: bool  # whether the head may have one
    unit: float
    mean: float  # of the labels
    kind: Kind = "regression"

    @property
    def rate_factor(self) -> float:
        """A head without a bias makes the labels' mean out of the features: where that is many deviations from 0, a
        small relative change of the features, as each step makes, is a large one of the error."""
        return 1.0 if self.bias else (1 + (self.mean / self.unit) ** 2) ** -0.5

    def solve(self, features: NDArray[np.float32], answers: Sequence[Answer]) -> HeadWeights:
        return solve_ridge(features, np.array(answers, np.float64), bias=self.bias)

    def texts(self, documents: Sequence[Tokens], answers: Sequence[Answer]) -> TargetTexts:
        numbers = (targets_of(self.kind, answers, self.outputs) / self.unit).astype(np.float32)
        return TargetTexts(documents, numbers, np.ones_like(numbers))

    def objective(self, texts: TargetTexts, recipe: Recipe, computing: Computing) -> Targets:
        return _targets(texts, recipe, computing, squared_errors, smoothing=0.0)


def _targets(texts: TargetTexts, recipe: Recipe, computing: Computing, losses: Any, smoothing: float) -> Targets:
    return Targets(texts, losses, computing.epochs(recipe), smoothing=smoothing)


def problem_of(task: Task, examples: Examples, family: str, *, balanced: bool, seed: int) -> Problem:
    """That of a task, to be learned from these examples; `family`: of the model, whose head may have a bias.

    Raises OptionError for a number whose classes are to be `balanced`.
    """
    bias = head_has_bias(family)
    if task.kind == "multilabel":
        return SeveralLabels(task.labels, balanced, seed, bias)
    if task.kind == "classification":
        return OneLabel(task.labels, balanced, seed)
    if balanced:
        raise OptionError("--class-weights: wanted a task of labels, got one of a number; leave it out")
    numbers = np.array(examples.labels, np.float64)
    return Number((task.label,), bias, unit=float(numbers.std()) or 1.0, mean=float(numbers.mean()))
