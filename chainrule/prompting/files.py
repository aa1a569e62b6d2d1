"""How a predictor asks its model, as a file beside it: chainrule.toml. Knows names and values, no model."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from chainrule.errors import ModelError
from chainrule.storage.files import write_text

FORM = "chainrule.toml"  # a classifier's has a table of another name


@dataclass(frozen=True)
class PromptForm:
    """All that a prompted predictor needs beside its model."""

    kind: str
    text: tuple[str, ...]  # the text columns
    label: str  # the label's column
    labels: tuple[str, ...]  # the classes, in their order; () where answers are free
    template: str
    separator: str
    words: dict[str, str]
    history: bool  # as in `Prompt`
    longer: str  # these four as in `Asking`
    chat: bool
    normalise: str
    calibrate: str
    bos: str  # the token in front
    answer_tokens: int  # the most that are generated
    one_line: bool  # whether an answer ends with its line

    def save(self, directory: Path) -> None:
        """Write the file."""
        fields: dict[str, Any] = {**vars(self), "text": list(self.text), "labels": list(self.labels)}
        write_text(directory / FORM, tomli_w.dumps({"prompted": fields}))


def is_prompted(directory: Path) -> bool:
    """Whether a directory's chainrule.toml is that of a prompted predictor."""
    path = directory / FORM
    try:
        return path.is_file() and "prompted" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):  # `read_form` raises the error
        return False


def read_form(directory: Path) -> PromptForm:
    """The form of a directory; ModelError where it cannot be read."""
    path = directory / FORM
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))["prompted"]
        form = PromptForm(**{**fields, "text": tuple(fields["text"]), "labels": tuple(fields["labels"])})
        _check(form)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: wanted the prompt of a predictor, got {error!r}; restore it") from None
    return form


def _check(form: PromptForm) -> None:
    """ValueError for a value of another kind than the field's."""
    wanted = {"kind": str, "label": str, "template": str, "separator": str, "words": dict, "history": bool,
              "longer": str, "chat": bool, "normalise": str, "calibrate": str, "bos": str, "answer_tokens": int,
              "one_line": bool}  # fmt: skip
    for name, kind in wanted.items():
        if type(getattr(form, name)) is not kind:
            raise ValueError(f"{name} = {getattr(form, name)!r}")
    if not all(type(one) is str for one in (*form.text, *form.labels, *form.words.values())):
        raise ValueError("text, labels and words of another kind than text")
