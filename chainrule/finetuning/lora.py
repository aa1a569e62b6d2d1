"""The recipe of w and LoRA's matrices on labelled texts, θ̂ being frozen, and what is refused. Knows no labels.

The learning rate is 10 times that of full finetuning, on all linear layers of the blocks, and batches are small ("LoRA
Without Regret", Schulman et al., 2025).
"""

from pathlib import Path

from chainrule.errors import ModelError, OptionError
from chainrule.finetuning.full import Recipe, short_warmup
from chainrule.language_model import Pretrained
from chainrule.model.transformer import Transformer

BATCH_SIZE = 8  # texts a step
TEXTS = 192  # that are read in any case, however few the labels
EPOCHS = 2.0  # beside them


def lora_recipe(n: int, width: int, *, epochs: float | None, learning_rate: float | None, seed: int) -> Recipe:
    """The recipe for n texts: by default 192 texts and 2 epochs more; the rate falls with the width."""
    batch_size = min(BATCH_SIZE, n)
    texts = TEXTS + EPOCHS * n if epochs is None else epochs * n
    rate = 0.6 / width
    steps = max(1, round(texts / batch_size))
    return Recipe(steps, batch_size, learning_rate or rate, rate, seed, least_warmup=short_warmup(steps))


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
