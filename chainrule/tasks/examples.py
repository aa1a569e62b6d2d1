"""Labelled examples (x_task, y_task): a task, its examples read from files, its subsets of N labels. Knows text, not
models."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ChainruleError, DataError
from chainrule.storage.columns import NO_TEXT, Record, missing_column, text_of
from chainrule.storage.lines import UndecodableError
from chainrule.storage.records import (
    Log,
    OnError,
    Skipped,
    format_of,
    is_readable_twice,
    log_once,
    no_log,
    read_records,
)
from chainrule.storage.remote import is_remote, without_query
from chainrule.tasks.answers import KINDS, Answer, Kind, labels_in, rarest_labels, targets_of
from chainrule.tasks.dialogues import COMPLETION, PROMPT, is_dialogue, read_exchanges
from chainrule.tasks.prompt import Prompt, fill
from chainrule.tasks.prompt import Row as Row
from chainrule.tasks.splits import hold_out, stratified_order
from chainrule.tasks.task_file import DataFile, Settings, label_and_columns, read_task_file

_WRITE_ONE = "write one, or leave the row out"


@dataclass(frozen=True)
class Examples:
    """Labelled rows, as parallel lists. `labels`: texts; of several labels at once tuples, of numbers floats.
    `sources`: "file:line" of each; `groups`: author or document, if named."""

    rows: Sequence[Row]
    labels: Sequence[Answer]
    sources: Sequence[str]
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> "Examples":
        """The examples of these indices, in this order."""
        groups = None if self.groups is None else [self.groups[i] for i in indices]
        return Examples(
            [self.rows[i] for i in indices],
            [self.labels[i] for i in indices],
            [self.sources[i] for i in indices],
            groups,
        )


@dataclass(frozen=True)
class Task:
    """Examples to learn from, test examples, and how a prompt asks. Made by `load`."""

    kind: Kind
    text: tuple[str, ...]  # the text columns
    label: str  # the label's column
    train: Examples
    test: Examples
    labels: tuple[str, ...]  # the sorted classes of train; () where the kind is "free" or "regression"
    prompt: Prompt | None = None
    input: str | None = None  # the template of what finetuning reads; None: the text columns joined by a newline
    dropped: int = 0  # training rows left out because their texts, or their groups, are in test too
    path: Path | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        text: str | Sequence[str] = (),
        label: str | Sequence[str] = "",
        encoding: str = Settings.encoding,
        on_error: OnError = "stop",
        log: Log = no_log,
    ) -> "Task":
        """The task of a .toml; or of a data file with these columns in this encoding, with the default prompt.

        Without test rows a stratified fifth is held out, always the same one. Space around labels is removed.
        Raises DataError, with file and line, for what is missing, empty or unknown; with on_error="skip" such rows are
        left out, and `log` is called with their number.
        """
        text = (text,) if isinstance(text, str) else tuple(text)
        label, _ = label_and_columns((label,) if isinstance(label, str) else label, "classification")
        if is_remote(str(path)):
            return cls._of_url(str(path), text, label, encoding, on_error, log)
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file: check the name")
        if path.suffix == ".toml":
            if text or label:
                raise DataError(f"{path}: a task file names its own text and label columns: leave the options out")
            if encoding != Settings.encoding:
                raise DataError(
                    f"{path}: a task file names the encoding of its files itself: write encoding = {encoding!r} into"
                    " it, and leave the option out"
                )
            return cls.read(read_task_file(path), path, on_error=on_error, log=log)
        if not text or not label:
            first = next(read_records(str(path), encoding=encoding), None)
            if isinstance(first, DataError):
                raise first
            if first is not None and not text and not label and is_dialogue(first.values):
                return cls._of_dialogues(path, encoding, on_error, log)
            there = f": name them out of {_listed(list(first.values))}" if first else " of a file with rows"
            raise DataError(f"{path}: wanted --text and --label, the names of its columns{there}")
        settings = Settings(path, text, label, prompt=Prompt.default(text, label), encoding=encoding)
        return cls.read(settings, path, on_error=on_error, log=log)

    @classmethod
    def _of_url(cls, url: str, text: tuple[str, ...], label: str, encoding: str, on_error: OnError, log: Log) -> "Task":
        """The task of a data file elsewhere, with the default prompt."""
        if not text or not label or without_query(url).endswith(".toml"):
            raise DataError(f"{url}: wanted a data file with --text and --label; of a task file only the data are URLs")
        settings = Settings(url, text, label, prompt=Prompt.default(text, label), encoding=encoding)
        return cls.read(settings, on_error=on_error, log=log)

    @classmethod
    def _of_dialogues(cls, path: Path, encoding: str, on_error: OnError, log: Log) -> "Task":
        """The task of a file of conversations: their answers are free; a fifth of the conversations is held out."""
        found = read_exchanges(str(path), encoding=encoding, on_error=on_error, log=log_once(log))
        kept, held_out = hold_out([""] * len(found.rows), found.conversations, seed=0)
        if not held_out:
            raise DataError(f"{path}: wanted conversations that can be held out for the test, found one: add some")
        several = len(set(found.conversations)) < len(found.rows)
        examples = Examples(found.rows, found.answers, found.conversations, found.conversations if several else None)
        seen = {tuple(found.rows[index].values()) for index in held_out}
        own = [index for index in kept if tuple(found.rows[index].values()) not in seen]
        if not own:
            raise DataError(
                f"{path}: wanted rows to learn from, but each of them is held out for the test too: add some"
            )
        train, test = examples.take(own), examples.take(held_out)
        dropped = len(kept) - len(own)
        return cls("free", (PROMPT,), COMPLETION, train, test, (), found.prompt, dropped=dropped, path=path)

    @classmethod
    def read(
        cls, settings: Settings, path: Path | None = None, *, on_error: OnError = "stop", log: Log = no_log
    ) -> "Task":
        """The task that the settings describe; errors as in `load`. `path`: the file that they are from."""
        if on_error not in get_args(OnError):
            raise DataError(f"--on-error: wanted {' or '.join(get_args(OnError))}, got {on_error!r}: choose one")
        files = [settings.train] if settings.test is None else [settings.train, settings.test]
        log = log_once(log)
        try:
            train, *others = [_read(file, settings, on_error, log) for file in files]
        except UndecodableError as error:
            if path is None or path.suffix != ".toml":
                raise
            raise DataError(
                f'{error.fact}: name the encoding of the data, as in encoding = "cp1252" in {path}, or skip what'
                " cannot be read with --on-error skip"
            ) from None
        if others:
            (test,) = others
        else:
            kept, held_out = hold_out(_strata(settings.kind, train), train.groups, seed=0)
            if not held_out:
                raise DataError(
                    f"{settings.train}: wanted rows that can be held out for the test, found none; name a file of test"
                    ' items in a task file (test = "FILE")'
                )
            kept, held_out = _learnable(settings.kind, train, kept, held_out)
            train, test = train.take(kept), train.take(held_out)
        seen = {_texts(row, settings.text) for row in test.rows}
        test_groups = set(test.groups or ())
        own = [
            index
            for index, row in enumerate(train.rows)
            if _texts(row, settings.text) not in seen
            and (train.groups is None or train.groups[index] not in test_groups)
        ]
        dropped, train = len(train) - len(own), train.take(own)
        if not own:
            raise DataError(
                f"{settings.train}: wanted rows to learn from, but each of them is in test too: name others"
            )
        labels = _classes(train, test, settings) if settings.kind != "free" else ()
        prompt = settings.prompt and replace(settings.prompt, words=_stripped(settings.prompt.words))
        for label in prompt.words if prompt else ():
            if label not in labels:
                raise DataError(
                    f"{path}: [prompt.words] has {label!r}, none of the labels {_listed(labels)}: correct it"
                )
        return cls(
            settings.kind, settings.text, settings.label, train, test, labels,
            prompt, settings.input, dropped, path,
        )  # fmt: skip

    @property
    def smallest(self) -> int:
        """The fewest labels that compare learns from: 4, or one a class if that is more."""
        return max(4, len(self.labels))

    @property
    def fewest(self) -> int:
        """The fewest labelled rows that can be learned from: one a class, where a row has one."""
        return max(1, len(self.labels)) if self.kind == "classification" else 1

    def targets(self, examples: Examples) -> NDArray[np.float64]:
        """(N, C) of a task of several labels at once, 1 where a label applies; (N, 1) of a task of numbers."""
        return targets_of(self.kind, examples.labels, self.labels)

    def subset(self, n: int | None, seed: int) -> Examples:
        """N labels to learn from: the first n of one order of the training rows; None for all of them.

        The order depends on the seed alone, so subsets are nested and the same for every method; they are stratified,
        with at least one row a class; where rows have several labels, by the rarest one of each row. Raises DataError
        for n out of range.
        """
        least = self.fewest
        if n is not None and not least <= n <= len(self.train):
            reason = " (one a class)" if least > 1 else ""
            raise DataError(f"--labels: wanted from {least}{reason} to {len(self.train)} (all of train), got {n}")
        return self.train.take(stratified_order(_strata(self.kind, self.train), seed)[:n].tolist())

    def split_validation(self, examples: Examples, seed: int) -> tuple[Examples, Examples]:
        """The examples to train on, and a stratified fifth, in whole groups, for validation.

        Every class stays in training. The validation part is empty where every group is too large to be held out.
        """
        kept, held_out = hold_out(_strata(self.kind, examples), examples.groups, seed)
        return examples.take(kept), examples.take(held_out)

    def row(self, row: Row | str, where: str = "row") -> Row:
        """The row itself, or a text as a row in a task of one text column.

        Raises DataError, naming `where`, for a text column that is not there, and for a row without text.
        """
        return checked_row(row, self.text, where)

    def finetune_text(self, row: Row | str) -> str:
        """What finetuning and the bag of words read of a row; errors as in `row`."""
        return joined_text(self.row(row), self.text, self.input)

    def checked_prompt(self) -> Prompt:
        """The prompt; raises DataError where there is none, or where its label words cannot be used."""
        if self.kind in ("multilabel", "regression"):
            raise DataError(
                f"{self.path or 'task'}: prompting wants a task of one label or of free answers, got {KINDS[self.kind]}"
                f" (kind {self.kind!r}): finetune, or compare the other methods"
            )
        if self.prompt is None:
            example = Prompt.default(self.text, self.label).template
            raise DataError(f"{self.path or 'task'}: prompting wants [prompt] and its template, as {example!r}: add it")
        self.prompt.check_columns(self.text)
        try:
            self.prompt.check_words(self.labels)
        except ChainruleError as error:
            if self.path is None or self.path.suffix == ".toml":
                raise
            raise DataError(f"{error}; write a task file with: {self._command()}") from None
        return self.prompt

    def _command(self) -> str:
        """The command that writes a task file for a data file."""
        assert self.path is not None
        named = ["--text", *self.text, "--label", self.label, "--out", self.path.with_suffix(".toml").name]
        return shlex.join(["chainrule", "task", str(self.path), *named])


def checked_row(row: Mapping[str, Any] | str, text: Sequence[str], where: str = "row", cure: str = _WRITE_ONE) -> Row:
    """`Task.row` for the text columns `text`. `cure`: what the error says to do about a row without text."""
    if isinstance(row, str):
        if len(text) > 1:
            raise DataError(f"{where}: wanted the columns {_listed(text)}, got one text: give a mapping of columns")
        row = {text[0]: row}
    texts = [text_of(row, column, where, cure=cure) for column in text]
    if not any(map(str.strip, texts)):
        raise DataError(f"{where}: wanted a text, {_listed(text)} is empty: {cure}")
    return (
        row if all(isinstance(row[column], str) for column in text) else {**row, **dict(zip(text, texts, strict=True))}
    )


def example_row(record: Record, text: Sequence[str]) -> Row:
    """The same for a row of a file, which errors name; a line of a .txt is the text of a single column."""
    if "text" not in text and format_of(record.source) == ".txt":
        return checked_row(record.values["text"], text, record.where, NO_TEXT)
    for column in text:
        if not isinstance(record.values.get(column), str):
            record.text(column)
    return checked_row(record.strings, text, record.where, NO_TEXT)


def joined_text(row: Row, text: Sequence[str], template: str | None) -> str:
    """What `Task.finetune_text` reads: the filled template, or the text columns joined by a newline."""
    return "\n".join(row[column] for column in text) if template is None else fill(template, row)


def _read(path: DataFile, settings: Settings, on_error: OnError, log: Log) -> Examples:
    """The examples of a file; DataError, with file and line, for a row that lacks a column, its text or its label."""
    if not is_readable_twice(str(path)):
        raise DataError(f"{path}: no such file: check the name")
    rows: list[Row] = []
    labels: list[Answer] = []
    groups: list[str] = []
    sources: list[str] = []
    skipped = Skipped()
    cells = settings.cells
    needed = [*settings.text, *cells.needed, *([] if settings.group is None else [settings.group])]
    for record in read_records(str(path), encoding=settings.encoding, columns=settings.columns or None, log=log):
        if isinstance(record, Record) and format_of(record.source) not in (".jsonl", ".ndjson"):
            for column in needed:  # where one row of a table lacks a column, all do
                if column not in record.values:
                    raise missing_column(record.where, column, list(record.values))
        try:
            if isinstance(record, DataError):
                raise record
            row = example_row(record, settings.text)
            label = cells.read(record)
            if settings.group is not None:
                groups.append(record.text(settings.group))
        except DataError as error:
            if on_error == "stop":
                raise
            skipped.add(error)
            continue
        rows.append(row)
        labels.append(label)
        sources.append(record.where)
    if not rows:
        why = f" ({skipped.note})" if skipped.count else ""
        raise DataError(f"{path}: wanted labelled rows, found none{why}: name another file")
    if skipped.count:
        log(f"{path}: of {len(rows) + skipped.count} rows {skipped.note}")
    return Examples(rows, labels, sources, None if settings.group is None else groups)


def _stripped(words: Mapping[str, str]) -> dict[str, str]:
    """Label words by label, without the space around labels."""
    found: dict[str, str] = {}
    for label, word in words.items():
        if found.setdefault(label.strip(), word) != word:
            raise DataError(f"[prompt.words]: {label.strip()!r} has two words, {found[label.strip()]!r} and {word!r}")
    return found


def _classes(train: Examples, test: Examples, settings: Settings) -> tuple[str, ...]:
    """The sorted labels of train; DataError where there is nothing to tell apart, or where test has a label that train
    lacks."""
    if settings.kind == "regression":
        if len(set(train.labels)) < 2:
            raise DataError(
                f"{settings.train}: wanted different numbers in {settings.label!r}, got {train.labels[0]!r} in each row"
            )
        return ()
    found, where = labels_in(settings.kind, train.labels), f"in {settings.label!r}"
    labels = tuple(sorted(found))
    if settings.kind == "multilabel" and not labels:
        raise DataError(f"{settings.train}: wanted labels {where}, found none in any row: name another column")
    if settings.kind == "classification" and len(labels) < 2:
        raise DataError(f"{settings.train}: wanted two classes or more {where}, found only {labels[0]!r}")
    for column in settings.label_columns:
        if column not in found:
            raise DataError(f"{settings.train}: {column!r} is 0 in each row to learn from: leave the column out")
    for answer, source in zip(test.labels, test.sources, strict=True):
        for label in sorted(labels_in(settings.kind, [answer]) - found):
            raise DataError(f"{source}: no training row has the label {label!r}: correct it, or add some")
    return labels


def _strata(kind: Kind, examples: Examples) -> Sequence[str]:
    if kind == "multilabel":
        return rarest_labels(examples.labels)
    return examples.labels if kind == "classification" else [""] * len(examples)


def _learnable(
    kind: Kind, examples: Examples, kept: Sequence[int], held_out: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The same indices, but rows with a label that no kept row has are kept too, with the others of their groups.

    Strata see to it where a row has one label; of several they see the rarest one alone.
    """
    kept, held_out = list(kept), list(held_out)
    if kind != "multilabel":
        return kept, held_out
    known = labels_in(kind, (examples.labels[index] for index in kept))
    for index in list(held_out):
        if index in held_out and not known.issuperset(examples.labels[index]):
            groups = examples.groups
            moved = [index] if groups is None else [other for other in held_out if groups[other] == groups[index]]
            known |= labels_in(kind, (examples.labels[other] for other in moved))
            held_out = [other for other in held_out if other not in moved]
            kept += moved
    return sorted(kept), held_out


def _texts(row: Row, text: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[column] for column in text)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))
