"""What a user may ask of a finetuning."""

from dataclasses import dataclass
from typing import Literal, get_args

from chainrule.errors import OptionError
from chainrule.prompting.asking import Normalise
from chainrule.scoring.longer import Longer

Train = Literal["full", "lora", "head"]
By = Literal["head", "words"]
Dtype = Literal["auto", "float32", "bfloat16"]
VALIDATED = 64  # with at least so many labels, a fifth of them is for validation


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of a finetuning; the defaults need no tuning.

    Training:
        train: Train the whole model, or adapters, or a head alone.
        by: Learn a linear head, or to answer the task's prompt with the right label word.
        rank: Rank of the adapters of --train lora (default 16).
        labels: Learn from N training examples (default all).
        chat: Write the prompt with the model's chat template.
        normalise: With --by words, score label words by log p in all, per token, or per byte.
        epochs: Epochs for full and lora (default with a head: full 3, at least 100 steps, lora 192 texts and 2 epochs;
            without a head: 96 texts and 2 epochs).
        learning_rate: Peak learning rate for full and lora (default by the width); with full the head learns 10 times
            as fast.
        class_weights: Give every class the same weight, however rare.
        longer: Texts over the context: cut the beginning, or refuse.
        seed: Seed of the choice of examples and of their order.
    Computing and output:
        dtype: auto is bfloat16 where it is faster, else float32.
    """

    train: Train = "full"
    labels: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    class_weights: bool = False
    longer: Longer = "cut"
    seed: int = 0
    dtype: Dtype = "auto"
    rank: int | None = None
    by: By = "head"
    chat: bool = False
    normalise: Normalise = "sum"

    def __post_init__(self) -> None:
        for name, choices in (("train", Train), ("longer", Longer), ("by", By), ("normalise", Normalise)):
            if getattr(self, name) not in get_args(choices):
                raise OptionError(f"--{name}: wanted {' or '.join(get_args(choices))}, got {getattr(self, name)!r}")
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise OptionError(f"--{name.replace('_', '-')}: wanted a positive number, got {value}")
        if self.normalise != "sum" and self.by != "words":
            raise OptionError(
                f"--normalise: wanted --by words beside it, as it divides the scores of label words, got"
                f" {self.normalise} with {self.by}; add it, or leave --normalise out"
            )
        if self.rank is not None and self.train != "lora":
            raise OptionError(f"--rank: wanted --train lora beside it, got {self.train}; add it, or leave --rank out")
        if self.rank is not None and self.rank < 1:
            raise OptionError(f"--rank: wanted at least 1, got {self.rank}")
