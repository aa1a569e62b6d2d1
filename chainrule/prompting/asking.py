"""The options of asking a language model for a row's answer. Knows no model."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from chainrule.errors import ChainruleError
from chainrule.scoring.longer import Longer

Answer = Literal["labels", "vocabulary"]  # the most probable label word; or the most probable next word of all
Calibrate = Literal["none", "content-free", "train"]
Normalise = Literal["sum", "token", "byte"]


@dataclass(frozen=True)
class Asking:
    """How a language model is asked for a label.

    Prompt:
        calibrate: Correct for labels the model prefers whatever the text is, measured on content-free texts or on
            training texts.
        normalise: Log p of a label word: in all, per token, per byte.
        longer: Texts over the context: cut the beginning, or refuse.
        chat: Use the model's chat template, a turn for each demonstration.
    """

    calibrate: Calibrate = "none"
    normalise: Normalise = "sum"
    longer: Longer = "cut"
    chat: bool = False

    def __post_init__(self) -> None:
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
