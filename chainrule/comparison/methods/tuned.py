"""Finetuning of the language model itself as methods of `compare`: on label words where the task has classes, on
answers where these are free; all weights, or LoRA. Knows no training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from chainrule.comparison.methods.lora import megabytes_of_matrices
from chainrule.comparison.methods.method import Colour, Method, Role, first_of, trained_beside, trained_whole
from chainrule.comparison.methods.prompted import prompt_obstacle
from chainrule.errors import ChainruleError

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.tasks.predictor import Predictor


def _answers_obstacle(study: Study) -> str | None:
    from chainrule.language_model import require_causal

    try:
        require_causal(study.lm, "answers", "take another model")
    except ChainruleError as error:
        return str(error)
    return prompt_obstacle(study)


def _seconds(study: Study, labels: int, tests: int, train: Literal["full", "lora"]) -> float:
    """A step reads its texts and goes back through them, which costs twice as much, or as much where weights are
    frozen; a fifth of the labels is validated on."""
    from chainrule.finetuning.options import VALIDATED
    from chainrule.finetuning.recipes import language_recipe

    made = language_recipe(labels, study.lm.model.config.width, lora=train == "lora")
    texts = made.steps * made.batch_size * (3 if train == "full" else 2)
    validated = 7 * labels / 5 if labels >= VALIDATED else 0
    return (texts + validated + 1.5 * tests) * max(1.0, study.demonstration_tokens) * study.seconds_a_token


def _fit(study: Study, labels: int, seed: int, train: Literal["full", "lora"]) -> Predictor:
    from chainrule.finetuning.finetune import finetune

    by: Literal["words", "head"] = "words" if study.task.kind == "classification" else "head"
    return finetune(study.lm, study.task, train=train, by=by, labels=labels, seed=seed)


WORDS = Method(
    "words",
    "finetuning on label words",
    Role.FINETUNED,
    Colour("#7c8a00", "#c3d14a"),
    partial(_seconds, train="full"),
    partial(_fit, train="full"),
    kinds=("classification",),
    obstacle=first_of(trained_whole, prompt_obstacle),
    megabytes=lambda study: study.megabytes,
)
WORDS_LORA = Method(
    "words-lora",
    "LoRA on label words",
    Role.FINETUNED,
    Colour("#2e8b3d", "#7fd48c"),
    partial(_seconds, train="lora"),
    partial(_fit, train="lora"),
    kinds=("classification",),
    obstacle=first_of(trained_beside, prompt_obstacle),
    megabytes=megabytes_of_matrices,
)
ANSWERS = Method(
    "answers",
    "finetuning on answers",
    Role.FINETUNED,
    Colour("#a1482a", "#e89a7c"),
    partial(_seconds, train="full"),
    partial(_fit, train="full"),
    kinds=("free",),
    obstacle=first_of(trained_whole, _answers_obstacle),
    megabytes=lambda study: study.megabytes,
)
ANSWERS_LORA = Method(
    "answers-lora",
    "LoRA on answers",
    Role.FINETUNED,
    Colour("#1d6f8a", "#74bdd6"),
    partial(_seconds, train="lora"),
    partial(_fit, train="lora"),
    kinds=("free",),
    obstacle=first_of(trained_beside, _answers_obstacle),
    megabytes=megabytes_of_matrices,
)
