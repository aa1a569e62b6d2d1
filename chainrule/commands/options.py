"""What many commands take. Knows no command."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from chainrule.arguments import Help
from chainrule.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from chainrule.language_model import Pretrained
    from chainrule.model_source import ModelSource
    from chainrule.tasks.examples import Task

Model = Annotated[str, Help("MODEL", "A run, a Hugging Face model folder, a GGUF file, or a name on the Hub.")]
TaskFile = Annotated[str, Help("TASK", "A task file (.toml), or a data file with --text and --label.")]
Folder = Annotated[Path, Help("DIR")]
Limit = Annotated[int | None, Help(text="Evaluate on N test items, a fixed random sample (default all).")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    Help(text="Where to compute; auto is CUDA, else the CPU.", section="Computing and output"),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Help(text="auto is bfloat16 on CUDA, else float32.", section="Computing and output"),
]
Bos = Annotated[
    str | None,
    Help("TOKEN", "Token in front of every text (default: see chainrule info).", "Computing and output"),
]
TrainingDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Help(text="auto is bfloat16 where it is faster, else float32.", section="Computing and output"),
]
Json = Annotated[bool, Help(text="Print one JSON document instead of text.", section="Computing and output")]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Columns:
    """Which columns to read, where TASK is a data file. A task file names its columns and its encoding itself.

    Reading data files:
        text: Column of the text; several columns are joined.
        label: Column of the label; several columns of 0 and 1 with chainrule task --kind multilabel.
        encoding: Encoding, unless a byte-order mark says it.
        on_error: Stop at an unusable row, or skip and count it.
    """

    text: Annotated[tuple[str, ...], Help("NAME")] = ()
    label: Annotated[tuple[str, ...], Help("NAME")] = ()
    encoding: Annotated[str, Help("NAME")] = "utf-8"
    on_error: OnError = "stop"

    def load(self, path: str) -> "Task":
        from chainrule.tasks.examples import Task
        from chainrule.terminal import log

        return Task.load(path, **vars(self), log=log)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Computing and output:
        bos: Token in front of every text (default: see chainrule info).
        device: Where to compute; auto is CUDA, else the CPU.
        dtype: auto is bfloat16 on CUDA, else float32.
        quantize: Weights in 8 or 4 bits; auto keeps those of the file on a CPU, none widens them to --dtype.
    """

    bos: Annotated[str | None, Help("TOKEN")] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    quantize: Literal["auto", "none", "int8", "int4"] = "auto"

    def source(self, model: str) -> "ModelSource":
        """The model of this name, to be loaded here or by workers."""
        from chainrule.model_source import ModelSource

        return ModelSource(model, **vars(self))

    def load(self, model: str) -> "Pretrained":
        """The model of this name; ModelError where there is none."""
        return self.source(model).load()


@dataclass(frozen=True)
class Reading:
    """How texts are read from files.

    Reading files:
        field: Column or key with the text of a row.
        encoding: Encoding, unless a byte-order mark says it.
        on_error: Stop at an unusable row or document, or skip and count it.
    """

    field: Annotated[str, Help("NAME")] = "text"
    encoding: Annotated[str, Help("NAME")] = "utf-8"
    on_error: OnError = "stop"


def with_defaults(options: "DataclassInstance") -> dict[str, tuple[object, object]]:
    """The value of each option and its default, as `refuse_without` takes them."""
    return {field.name: (getattr(options, field.name), field.default) for field in fields(options)}


def refuse_without(wanted: str, **given: tuple[object, object]) -> None:
    """OptionError for an option whose value is not the default that stands behind it, and that has no effect without
    what is wanted."""
    for name, (value, default) in given.items():
        if value != default:
            spelled = f"--{name.replace('_', '-')}"
            raise OptionError(f"{spelled}: wanted {wanted} beside it, got none; add it, or leave {spelled} out")


def check_at_least(least: float, **options: float | None) -> None:
    """OptionError for an option below `least`; None is one that is not given. A command's first lines: nothing is
    loaded or written for what cannot be."""
    for name, value in options.items():
        if value is not None and not value >= least:  # so written that NaN fails too
            raise OptionError(f"--{name.replace('_', '-')}: wanted at least {least}, got {value}")


def check_another_file(source: str, out: str, called: str) -> None:
    """OptionError where the output would replace the file that is read. `called`: the option that names it."""
    if source == out or (Path(source).exists() and Path(out).exists() and Path(source).samefile(out)):
        raise OptionError(f"--out: wanted another file than {called}, got {out} for both; choose another")


def check_seed(seed: int) -> None:
    """OptionError for what no generator of random numbers begins with."""
    if not 0 <= seed < 2**64:
        raise OptionError(f"--seed: wanted a whole number from 0 to 2**64 - 1, got {seed}")


def unescape(typed: str) -> str:
    r"""What a shell hands on as a backslash and a letter: \n, \t and \\ are a newline, a tab and a backslash."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], "\\"), typed)
