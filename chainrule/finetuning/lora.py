"""The recipe of w and LoRA's matrices on labelled texts, θ̂ being frozen, and what is refused. Knows no labels.

The recipe is that of full finetuning with 10 times its learning rate, on all linear layers of the blocks ("LoRA
Without Regret", Schulman et al., 2025).
"""

import dataclasses
from pathlib import Path

from chainrule.errors import ModelError, OptionError
from chainrule.finetuning.full import Recipe, recipe
from chainrule.language_model import Pretrained
from chainrule.model.transformer import Transformer


def lora_recipe(n: int, width: int, *, epochs: float | None, learning_rate: float | None, seed: int) -> Recipe:
    """Full finetuning's, the matrices learning 10 times as fast as its weights; the head as fast as there."""
    made = recipe(n, width, epochs=epochs, learning_rate=None, seed=seed)
    return dataclasses.replace(made, rate=learning_rate or 10 * made.rate)


def require_file(lm: Pretrained, out: Path | None) -> None:
    """ModelError for a model of no file, where an adapter is to be saved, which names its base."""
    if out is not None and lm.path is None:
        raise ModelError(
            "--train lora: wanted a model in a file of its own, which the new adapter names, got an adapter, or a model"
            " made in Python; merge the adapter (chainrule export ADAPTER --to huggingface --out FOLDER), or save the"
            " model, and take that"
        )


def check_rank(rank: int | None, model: Transformer) -> None:
    """OptionError for a rank above the model's width."""
    if rank is not None and rank > model.config.width:
        raise OptionError(f"--rank: wanted at most {model.config.width} (the model's width), got {rank}")
