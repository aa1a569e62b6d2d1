"""The options of asking a language model for a row's answer. Knows no model."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from chainrule.errors import ChainruleError
from chainrule.scoring.features import Longer

Answer = Literal["labels", "vocabulary"]
Calibrate = Literal["none", "content-free", "train"]
Normalise = Literal["sum", "token", "byte"]


@dataclass(frozen=True)
class Asking:
    """How the model is asked for a row's answer."""

    answer: Answer = "labels"  # the most probable label word; or the most probable next word of all
    calibrate: Calibrate = "none"  # subtract the labels' mean log p after content-free texts, or after training texts
    normalise: Normalise = "sum"  # log p of the whole label word; per token; per byte
    longer: Longer = "cut"  # cut the beginning of a row that does not fit into the context, or refuse it
    chat: bool = False  # write the prompt with the model's chat template, each demonstration as a turn

    def __post_init__(self) -> None:
        check_choice("answer", self.answer, Answer)
        check_choice("calibrate", self.calibrate, Calibrate)
        check_choice("normalise", self.normalise, Normalise)
        check_choice("longer", self.longer, Longer)

    def check_generated(self) -> None:
        """ChainruleError for what only the probabilities of labels can have, where answers are generated."""
        if self.calibrate != "none":
            raise ChainruleError(
                f"--calibrate: wanted none where answers are generated, got {self.calibrate};"
                " only the probabilities of labels can be calibrated; leave it out"
            )
        if self.normalise != "sum":
            raise ChainruleError(
                f"--normalise: wanted sum where answers are generated, got {self.normalise};"
                " only the probabilities of labels are normalised; leave it out"
            )


def check_choice(name: str, value: str, choices: Any) -> None:
    """ChainruleError for an option that is none of the choices."""
    if value not in get_args(choices):
        raise ChainruleError(f"--{name}: wanted {' or '.join(get_args(choices))}, got {value!r}")
