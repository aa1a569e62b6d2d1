"""What a user may ask of a finetuning."""

from dataclasses import dataclass
from typing import Literal, get_args

from chainrule.errors import OptionError
from chainrule.prompting.asking import Normalise
from chainrule.scoring.features import Longer

Train = Literal["full", "lora", "head"]
By = Literal["head", "words"]
VALIDATED = 64  # with at least so many labels, a fifth of them is for validation


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of a finetuning; the defaults need no tuning."""

    train: Train = "full"  # w and θ together, w and LoRA's matrices beside a frozen θ̂, or w alone
    labels: int | None = None  # how many training examples; None: all
    epochs: float | None = None  # None: as many as the recipe of what is trained has (docs/finetuning.md)
    learning_rate: float | None = None  # of what is trained of the model; None: by the width
    class_weights: bool = False  # every class counts the same, however rare
    longer: Longer = "cut"  # a text longer than the context loses its beginning, or is refused
    seed: int = 0
    dtype: str = "auto"  # that full and lora compute in; auto: bfloat16 where this machine multiplies faster with it
    rank: int | None = None  # of lora; None: 16
    by: By = "head"  # a linear head on the hidden state, or the label words of the task's prompt
    chat: bool = False  # by words, and of free answers: the prompt is written with the model's chat template
    normalise: Normalise = "sum"  # by words: log p of a label word in all, per token, or per byte

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
