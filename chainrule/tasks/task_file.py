"""The task file, read and written: data files, columns, prompt. Opens no data."""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tomli_w

from chainrule.errors import ChainruleError, DataError
from chainrule.storage.columns import check_distinct
from chainrule.storage.lines import checked_encoding
from chainrule.tasks.prompt import Prompt, check_columns, is_word

Kind = Literal["classification", "free"]  # "free": an answer judged by exact match
Default = TypeVar("Default")


@dataclass(frozen=True)
class Settings:
    """What a task file holds. Raises DataError for contradictory columns."""

    train: Path
    text: tuple[str, ...]  # the text columns
    label: str  # the label's column
    test: Path | None = None  # None: a fifth of train is held out
    columns: tuple[str, ...] = ()  # of files without a header
    group: str | None = None  # the column whose values no split divides: an author, a document
    kind: Kind = "classification"
    prompt: Prompt | None = None
    input: str | None = None  # the template of what finetuning reads; None: the text columns joined by a newline
    encoding: str = "utf-8"  # of train and test; a byte-order mark in them decides instead

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(f"kind: wanted {' or '.join(get_args(Kind))}, got {self.kind!r}: correct it")
        if not all([self.label, *self.text]) or not self.text:
            raise DataError("wanted text and label, the columns of the texts and of their labels: name both")
        check_distinct("columns", self.columns)
        try:
            checked_encoding(self.encoding)
        except ChainruleError as error:
            raise DataError(f"encoding: {error}") from None
        if self.label in self.text:
            raise DataError(f"text: {self.label!r} is the label's column, and would give the answer away: leave it out")
        if self.prompt is not None:
            self.prompt.check_columns(self.text)
            if self.kind == "free" and self.prompt.words:
                raise DataError(
                    '[prompt.words]: wanted none where the kind is "free", whose answers need no label words'
                )
        if self.input is not None:
            check_columns("[finetune] input", self.input, self.text)


def read_task_file(path: Path) -> Settings:
    """The settings in a .toml; its paths are relative to it. Raises DataError for unknown, missing or wrong keys."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        optional = ("kind", "test", "columns", "group", "encoding", "prompt", "finetune")
        _check_keys("", table, ("train", "text", "label"), optional)
        finetune = _table(table, "finetune")
        _check_keys(" of [finetune]", finetune, (), ("input",))
        test = _string(table, "test", None)
        return Settings(
            train=path.parent / _string(table, "train", ""),
            text=_strings(table, "text"),
            label=_string(table, "label", ""),
            test=None if test is None else path.parent / test,
            columns=_strings(table, "columns"),
            group=_string(table, "group", None),
            kind=table.get("kind", "classification"),
            prompt=_prompt(_table(table, "prompt")) if "prompt" in table else None,
            input=_string(finetune, "input", None),
            encoding=_string(table, "encoding", Settings.encoding),
        )
    except ValueError as error:  # what is no TOML, or no UTF-8, too
        raise DataError(f"{path}: {error}") from None


def _prompt(table: dict[str, Any]) -> Prompt:
    _check_keys(" of [prompt]", table, ("template",), ("separator", "words"))
    words = _table(table, "words")
    return Prompt(
        _string(table, "template", ""),
        _string(table, "separator", Prompt.separator),
        {label: _string(words, label, "") for label in words},
    )


def _check_keys(section: str, table: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    listed = ", ".join(required + optional)
    for key in table:
        if key not in required + optional:
            raise DataError(f"no key{section} is {key!r}, there are {listed}: correct it")
    for key in required:
        if key not in table:
            raise DataError(f"wanted the key {key!r}{section}, found none: add it")


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise DataError(f"{key}: wanted a table, got {value!r}: write [{key}], and its keys below")
    return value


def _string(table: dict[str, Any], key: str, default: Default) -> str | Default:
    value = table.get(key, default)
    if not isinstance(value, str) and value is not default:
        raise DataError(f'{key}: wanted a text, as in {key} = "…", got {value!r}: correct it')
    return value


def _strings(table: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of strings, or one string for a list of one."""
    value = table.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f'{key}: wanted a text or a list of them, as in {key} = ["…", "…"], got {value!r}: correct it')
    return tuple(values)


def task_file(settings: Settings, labels: Sequence[str], folder: Path | None) -> str:
    """The text of a task file in `folder` with these settings, and in comments what else it may have. `labels`: the
    classes. Where the folder is not known, None, the names of data files are absolute.

    Where the settings have no prompt it is the default one, which works unchanged if the labels are words.
    """
    prompt = settings.prompt or Prompt.default(settings.text, settings.label)
    text = settings.text[0] if len(settings.text) == 1 else settings.text
    joined = "\n".join(f"{{{column}}}" for column in settings.text)
    test = None if settings.test is None else _relative(settings.test, folder)
    encoding = None if settings.encoding == Settings.encoding else settings.encoding
    lines = [
        _line("kind", settings.kind, '"classification", or "free": an answer judged by exact match'),
        _line("train", _relative(settings.train, folder)),
        _line("test", test, "without it a fifth of train is held out"),
        _line("encoding", encoding, "of these files, if they have no byte-order mark", Settings.encoding),
        _line("columns", settings.columns or None, "the names, for files without a header"),
        _line("text", text),
        _line("label", settings.label),
        _line("group", settings.group, "a column, as author or document, whose values no split divides"),
        "\n[prompt]",
        _line("template", prompt.template),
        _line("separator", prompt.separator),
    ]
    if labels:
        lines.append("\n[prompt.words]  # label -> label word; a label that is not listed is its own word")
    for label in labels:
        lines.append(_line(label, prompt.words.get(label), instead=label if is_word(label) else "…"))
    lines.append("\n[finetune]")
    lines.append(_line("input", settings.input, "what it reads; else the text columns, joined by a newline", joined))
    return "\n".join(lines) + "\n"


def _line(key: str, value: str | Sequence[str] | None, note: str = "", instead: str = "…") -> str:
    """A line of TOML; without a value a comment, with an example value `instead`."""
    line = f"{_key(key)} = {_value(instead if value is None else value)}"
    return f"{'# ' if value is None else ''}{line}{'  # ' if note else ''}{note}"


def _relative(path: Path, folder: Path | None) -> str:
    return (path.resolve() if folder is None else Path(os.path.relpath(path, folder))).as_posix()


def _key(name: str) -> str:
    return tomli_w.dumps({name: ""}).removesuffix(' = ""\n')


def _value(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return tomli_w.dumps({"": value}).removeprefix('"" = ').removesuffix("\n")
    return f"[{', '.join(map(_value, value))}]"
