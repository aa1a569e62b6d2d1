"""LoRA as a method of `compare`: small matrices beside frozen layers, and a linear head. Knows no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from chainrule.comparison.methods.finetuned import megabytes_of_head, seconds_of_recipe, texts_cut
from chainrule.comparison.methods.method import LABELLED, Colour, Method, Role, trained_beside

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.tasks.predictor import Predictor


def megabytes_of_matrices(study: Study) -> float:
    """LoRA's matrices, in float32."""
    from chainrule.model.formats.adapter import adapter_parts
    from chainrule.model.linear import Linear
    from chainrule.training.low_rank import RANK

    model = study.lm.model
    sizes = [
        RANK * (cast(Linear, model.get_submodule(name)).in_features * len(parts) + sum(parts))  # or a quantised one
        for name, parts in adapter_parts(model, study.lm.family).items()
        if name.startswith("blocks.")
    ]
    return sum(sizes) * 4 / 1e6


def _seconds(study: Study, labels: int, tests: int) -> float:
    from chainrule.finetuning.recipes import lora_recipe

    return seconds_of_recipe(study, lora_recipe(labels, study.lm.model.config.width), labels, tests)


def _fit(study: Study, labels: int, seed: int) -> Predictor:
    from chainrule.finetuning.finetune import finetune

    return finetune(study.lm, study.task, train="lora", labels=labels, seed=seed)


LORA = Method(
    "lora",
    "LoRA",
    Role.FINETUNED,
    Colour("#8a5a2b", "#c9986a"),
    _seconds,
    _fit,
    kinds=LABELLED,
    obstacle=trained_beside,
    notes=texts_cut,
    megabytes=lambda study: megabytes_of_matrices(study) + megabytes_of_head(study),
)
