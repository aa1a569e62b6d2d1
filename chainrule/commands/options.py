"""What many commands take. Knows no command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from chainrule.adaptation.examples import Task

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16"]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Calibrate = Literal["none", "content-free", "train"]
Normalise = Literal["sum", "token", "byte"]
Longer = Literal["cut", "refuse"]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Columns:
    """How a TASK is read. A task file names its columns and its encoding itself."""

    text: tuple[str, ...] = ()
    """The text's column, or several."""
    label: str = ""
    """The label's column."""
    encoding: str = "utf-8"
    """Of data files, as utf-8, utf-16 or cp1252; a byte-order mark in a file is believed first."""
    on_error: OnError = "stop"
    """Stop at a row that cannot be read or has no text or no label, or skip such rows and say how many."""

    def load(self, path: str) -> "Task":
        from chainrule.adaptation.examples import Task
        from chainrule.terminal import say

        return Task.load(path, **vars(self), say=say)


@dataclass(frozen=True)
class Asking:
    """How a language model is asked for a label."""

    calibrate: Calibrate = "none"
    """Take out what the prompt says of texts without content, or of training texts."""
    normalise: Normalise = "sum"
    """Label words of unequal length: log p of the whole, a token of it, or a byte of it."""
    longer: Longer = "cut"
    """A row longer than the context loses its beginning, or is refused."""
    chat: bool = False
    """Write the prompt as the model's chat template has it, each demonstration as a turn."""


def refuse_without(wanted: str, given: Mapping[str, object], default: Mapping[str, object]) -> None:
    """ValueError for an option that is not at its default, and has no effect without what is wanted."""
    for name, value in given.items():
        if value != default[name]:
            raise ValueError(f"--{name}: wanted {wanted} beside it, got none; add it, or leave --{name} out")
