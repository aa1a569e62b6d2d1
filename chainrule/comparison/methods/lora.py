"""LoRA as a method of `compare`: small matrices beside frozen layers, and a linear head. Knows no training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from chainrule.comparison.methods.finetuned import needs_classes, seconds_of_training, texts_cut
from chainrule.comparison.methods.method import Colour, Method, Role

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.tasks.predictor import Predictor


def _fit(study: Study, labels: int, seed: int) -> Predictor:
    from chainrule.finetuning.finetune import finetune

    return finetune(study.lm, study.task, train="lora", labels=labels, seed=seed)


LORA = Method(
    "lora",
    "LoRA",
    Role.FINETUNED,
    Colour("#8a5a2b", "#c9986a"),
    partial(needs_classes, name="lora"),
    seconds_of_training,
    _fit,
    notes=texts_cut,
)
