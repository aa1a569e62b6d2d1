"""The task file, read and written: data files, columns, prompt. Opens no data."""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from chainrule.errors import ChainruleError, DataError
from chainrule.storage.columns import check_distinct
from chainrule.storage.lines import checked_encoding
from chainrule.storage.remote import is_remote, without_secrets
from chainrule.tasks.answers import KINDS, Kind, LabelCells
from chainrule.tasks.prompt import Prompt, check_columns, is_word

Default = TypeVar("Default")
DataFile = Path | str  # a path, or a URL as it is


@dataclass(frozen=True)
class Settings:
    """What a task file holds. Raises DataError for contradictory columns."""

    train: DataFile
    text: tuple[str, ...]  # the text columns
    label: str  # the label's column; what columns of 0 and 1 are together called in messages
    test: DataFile | None = None  # None: a fifth of train is held out
    columns: tuple[str, ...] = ()  # of files without a header
    group: str | None = None  # the column whose values no split divides: an author, a document
    kind: Kind = "classification"
    prompt: Prompt | None = None
    input: str | None = None  # the template of what finetuning reads; None: the text columns joined by a newline
    encoding: str = "utf-8"  # of train and test; a byte-order mark in them decides instead
    label_columns: tuple[str, ...] = ()  # columns of 0 and 1, one for each label, where the kind is "multilabel"
    label_separator: str = LabelCells.separator  # between the labels in a cell, where the kind is "multilabel"
    none: bool = False  # an empty cell means that no label applies, where the kind is "multilabel"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind: wanted {' or '.join(KINDS)}, got {self.kind!r}: correct it")
        if not all([self.label, *self.label_columns, *self.text]) or not self.text:
            raise DataError("wanted text and label, the columns of the texts and of their labels: name both")
        self._check_label_cells()
        check_distinct("columns", self.columns)
        try:
            checked_encoding(self.encoding)
        except ChainruleError as error:
            raise DataError(f"encoding: {error}") from None
        for column in self.cells.needed:
            if column in self.text:
                raise DataError(f"text: {column!r} is the label's column, and would give the answer away: leave it out")
        if self.prompt is not None:
            if self.kind in ("multilabel", "regression"):
                raise DataError(
                    f'[prompt]: wanted none where the kind is "{self.kind}", which no prompt asks for: leave it out'
                )
            self.prompt.check_columns(self.text)
            if self.kind == "free" and self.prompt.words:
                raise DataError(
                    '[prompt.words]: wanted none where the kind is "free", whose answers need no label words'
                )
        if self.input is not None:
            check_columns("[finetune] input", self.input, self.text)

    @property
    def name(self) -> str:
        """The file of `train`, for messages."""
        return without_secrets(str(self.train))

    @property
    def cells(self) -> LabelCells:
        """Where the labels are."""
        return LabelCells(self.kind, self.label, self.label_columns, self.label_separator, self.none)

    def _check_label_cells(self) -> None:
        """Raise DataError for what only several labels can have, and for columns that occur twice."""
        check_distinct("label", self.label_columns)
        if self.kind != "multilabel":
            given = {
                "label": bool(self.label_columns),
                "label_separator": self.label_separator != LabelCells.separator,
                "none": self.none,
            }
            for name in (name for name, changed in given.items() if changed):
                wanted = "one column" if name == "label" else f"no {name}"
                raise DataError(
                    f'{name}: wanted {wanted} where the kind is {self.kind!r}, not "multilabel": correct it'
                )
        if not self.label_separator.strip():
            raise DataError(f'label_separator: wanted a mark, as "|", got {self.label_separator!r}: write one')


def read_task_file(path: Path) -> Settings:
    """The settings in a .toml; its paths are relative to it. Raises DataError for unknown, missing or wrong keys."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        optional = (
            "kind", "test", "columns", "group", "encoding", "label_separator", "none", "prompt", "finetune",
        )  # fmt: skip
        _check_keys("", table, ("train", "text", "label"), optional)
        finetune = _table(table, "finetune")
        _check_keys(" of [finetune]", finetune, (), ("input",))
        test = _string(table, "test", None)
        label, label_columns = label_and_columns(_strings(table, "label"), table.get("kind", "classification"))
        none = table.get("none", False)
        if not isinstance(none, bool):
            raise DataError(f"none: wanted true or false, got {none!r}: correct it")
        return Settings(
            train=data_file(path.parent, _string(table, "train", "")),
            text=_strings(table, "text"),
            label=label,
            test=None if test is None else data_file(path.parent, test),
            columns=_strings(table, "columns"),
            group=_string(table, "group", None),
            kind=table.get("kind", "classification"),
            prompt=_prompt(_table(table, "prompt")) if "prompt" in table else None,
            input=_string(finetune, "input", None),
            encoding=_string(table, "encoding", Settings.encoding),
            label_columns=label_columns,
            label_separator=_string(table, "label_separator", Settings.label_separator),
            none=none,
        )
    except ValueError as error:  # what is no TOML, or no UTF-8, too
        raise DataError(f"{path}: {error}") from None


def data_file(folder: Path, name: str) -> DataFile:
    """A file that a task names: a URL, or a path relative to the task's folder."""
    return name if is_remote(name) else folder / name


def label_and_columns(names: Sequence[str], kind: str) -> tuple[str, tuple[str, ...]]:
    """`Settings.label` and `Settings.label_columns` of the columns that were named as the label's.

    Raises DataError for several columns of a kind that has one label.
    """
    if len(names) < 2:
        return "".join(names), ()
    if kind != "multilabel":
        raise DataError(
            f"label: wanted one column, got {', '.join(map(repr, names))}: name one of them, or, if they hold 0 and 1,"
            ' take the kind "multilabel"'
        )
    return ", ".join(names), tuple(names)


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
    prompted = settings.kind in ("classification", "free")
    lines = [
        _line("kind", settings.kind, KINDS[settings.kind]),
        _line("train", _relative(settings.train, folder)),
        _line("test", test, "without it a fifth of train is held out"),
        _line("encoding", encoding, "of these files, if they have no byte-order mark", Settings.encoding),
        _line("columns", settings.columns or None, "the names, for files without a header"),
        _line("text", text),
        _line("label", settings.label_columns or settings.label),
        *(_label_lines(settings) if settings.kind == "multilabel" and not settings.label_columns else ()),
        _line("group", settings.group, "a column, as author or document, whose values no split divides"),
    ]
    if prompted:
        lines += ["\n[prompt]", _line("template", prompt.template), _line("separator", prompt.separator)]
    if labels and prompted:
        lines.append("\n[prompt.words]  # label -> label word; a label that is not listed is its own word")
        for label in labels:
            lines.append(_line(label, prompt.words.get(label), instead=label if is_word(label) else "…"))
    lines.append("\n[finetune]")
    lines.append(_line("input", settings.input, "what it reads; else the text columns, joined by a newline", joined))
    return "\n".join(lines) + "\n"


def _label_lines(settings: Settings) -> list[str]:
    """How labels are written in one column; where it is the default as a comment."""
    separator = None if settings.label_separator == LabelCells.separator else settings.label_separator
    none = "none = true  # an empty cell means that no label applies; without it such a row is refused"
    return [
        _line("label_separator", separator, "between the labels in a cell; a .jsonl may have lists", "|"),
        none if settings.none else f"# {none}",
    ]


def _line(key: str, value: str | Sequence[str] | None, note: str = "", instead: str = "…") -> str:
    """A line of TOML; without a value a comment, with an example value `instead`."""
    line = f"{_key(key)} = {_value(instead if value is None else value)}"
    return f"{'# ' if value is None else ''}{line}{'  # ' if note else ''}{note}"


def _relative(path: DataFile, folder: Path | None) -> str:
    if isinstance(path, str):
        return path
    return (path.resolve() if folder is None else Path(os.path.relpath(path, folder))).as_posix()


def _key(name: str) -> str:
    return tomli_w.dumps({name: ""}).removesuffix(' = ""\n')


def _value(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return tomli_w.dumps({"": value}).removeprefix('"" = ').removesuffix("\n")
    return f"[{', '.join(map(_value, value))}]"
