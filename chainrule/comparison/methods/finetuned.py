"""Finetuning as methods of `compare`: a linear head on the hidden states, or all layers. Knows no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chainrule.comparison.methods.method import LABELLED, Colour, Method, Role, trained_whole

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.finetuning.recipes import Recipe
    from chainrule.tasks.examples import Row
    from chainrule.tasks.predictor import Predictor


def texts_cut(study: Study, predictor: Predictor, rows: Sequence[Row]) -> list[str]:
    """The note on texts longer than the context, for all methods that read `study.texts`."""
    context = study.lm.model.config.context
    cut = sum(length > study.features.max_tokens for length in study.features.lengths(study.texts(rows)))
    return [f"{cut} test texts longer than the context of {context} tokens lost their beginning"] if cut else []


def seconds_of_features(study: Study, labels: int, tests: int) -> float:
    """Of a classifier on the hidden states."""
    return 0.1 + 1e-4 * labels + (tests + labels) * study.seconds_a_text


def seconds_of_training(study: Study, labels: int, tests: int) -> float:
    """Of training all layers."""
    from chainrule.finetuning.recipes import recipe

    return seconds_of_recipe(study, recipe(labels, study.lm.model.config.width), labels, tests)


def seconds_of_recipe(study: Study, recipe: Recipe, labels: int, tests: int) -> float:
    """Of training and testing by a recipe."""
    texts = tests + 3 * recipe.steps * recipe.batch_size + labels  # backward is twice forward; the validations
    return texts * study.seconds_a_text


def megabytes_of_head(study: Study) -> float:
    """A row for each class, in float32."""
    return len(study.task.labels) * study.lm.model.config.width * 4 / 1e6


def _head(study: Study, labels: int, seed: int) -> Predictor:
    from chainrule.finetuning.finetune import finetune

    return finetune(study.lm, study.task, train="head", labels=labels, seed=seed, features=study.features)


def _full(study: Study, labels: int, seed: int) -> Predictor:
    from chainrule.finetuning.finetune import finetune

    return finetune(study.lm, study.task, labels=labels, seed=seed)


HEAD = Method(
    "head",
    "the linear head",
    Role.FINETUNED,
    Colour("#c77700", "#f0a93a"),
    seconds_of_features,
    _head,
    kinds=LABELLED,
    notes=texts_cut,
    megabytes=megabytes_of_head,
    shares_features=True,
)
FULL = Method(
    "full",
    "full finetuning",
    Role.FINETUNED,
    Colour("#cf3a2f", "#ff7a6e"),
    seconds_of_training,
    _full,
    kinds=LABELLED,
    obstacle=trained_whole,
    notes=texts_cut,
    megabytes=lambda study: study.megabytes,
)
