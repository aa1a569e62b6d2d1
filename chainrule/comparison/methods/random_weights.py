"""The control of finetuning: the same network, finetuned from random weights. Knows how to make a model anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrule.comparison.methods.finetuned import seconds_of_training, texts_cut
from chainrule.comparison.methods.method import LABELLED, Colour, Method, Role, copied_whole

if TYPE_CHECKING:
    from chainrule.comparison.study import Study
    from chainrule.language_model import Pretrained
    from chainrule.tasks.predictor import Predictor


def random_weights(lm: Pretrained, seed: int = 0) -> Pretrained:
    """The same network and tokenizer before any pretraining, its weights drawn from `seed`: what `finetune` achieves
    from there, pretraining did not contribute to."""
    from chainrule.language_model import make_language_model
    from chainrule.model.transformer import Transformer, initialise

    model = Transformer(lm.model.config)
    initialise(model, seed)  # on the CPU, so that every device starts from the same weights
    model.compute_dtype = lm.model.compute_dtype
    model.to(lm.device, lm.model.dtype)
    return make_language_model(model.eval(), lm.tokenizer, lm.family, lm.stop_tokens)


def _fit(study: Study, labels: int, seed: int) -> Predictor:
    from chainrule.finetuning.finetune import finetune

    return finetune(random_weights(study.lm, seed), study.task, labels=labels, seed=seed)


RANDOM_WEIGHTS = Method(
    "random-weights",
    "the same network from random weights",
    Role.CONTROL,
    Colour("#67707d", "#98a1af"),
    seconds_of_training,
    _fit,
    kinds=LABELLED,
    obstacle=copied_whole,
    notes=texts_cut,
    megabytes=lambda study: study.megabytes,
)
