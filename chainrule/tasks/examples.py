"""Labelled examples (x_task, y_task): a task, its examples read from files, its subsets of N labels. Knows text, not
models."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import ChainruleError, DataError
from chainrule.storage.columns import Record
from chainrule.storage.lines import UndecodableError
from chainrule.storage.records import Log, OnError, is_readable_twice, log_once, no_log, read_records
from chainrule.storage.remote import is_remote, without_secrets
from chainrule.tasks.answers import KINDS, Answer, Kind, labels_in, strata, targets_of
from chainrule.tasks.dialogues import COMPLETION, PROMPT, is_dialogue, read_exchanges
from chainrule.tasks.prompt import Prompt
from chainrule.tasks.prompt import Row as Row
from chainrule.tasks.rows import checked_row, example_row, joined_text, read_rows
from chainrule.tasks.splits import hold_out, keep_every_label, stratified_order
from chainrule.tasks.task_file import DataFile, Settings, label_and_columns, read_task_file


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
        if not text or not label or without_secrets(url).endswith(".toml"):
            raise DataError(
                f"{without_secrets(url)}: wanted a data file with --text and --label; of a task file only the data are"
                " URLs"
            )
        settings = Settings(url, text, label, prompt=Prompt.default(text, label), encoding=encoding)
        return cls.read(settings, on_error=on_error, log=log)

    @classmethod
    def _of_dialogues(cls, path: Path, encoding: str, on_error: OnError, log: Log) -> "Task":
        """The task of a file of conversations: their answers are free; a fifth of the conversations is held out."""
        found = read_exchanges(path, encoding=encoding, on_error=on_error, log=log_once(log))
        kept, held_out = hold_out([""] * len(found.rows), found.conversations, seed=0)
        if not held_out:
            raise DataError(f"{path}: wanted conversations that can be held out for the test, found one: add some")
        several = len(set(found.conversations)) < len(found.rows)
        examples = Examples(found.rows, found.answers, found.conversations, found.conversations if several else None)
        test = examples.take(held_out)
        train, dropped = _without_test(examples.take(kept), test, tuple(found.rows[0]), path)
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
        train, test = (train, others[0]) if others else _held_out(settings, train)
        train, dropped = _without_test(train, test, settings.text, settings.name)
        labels = _classes(train, test, settings) if settings.kind != "free" else ()
        prompt = settings.prompt and settings.prompt.for_labels(labels, f"{path}: ")
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
            raise DataError(
                f"--labels: wanted from {least}{reason} to {len(self.train)} (all of train), got {n}; choose one"
            )
        return self.train.take(stratified_order(strata(self.kind, self.train.labels), seed)[:n].tolist())

    def split_validation(self, examples: Examples, seed: int) -> tuple[Examples, Examples]:
        """The examples to train on, and a stratified fifth, in whole groups, for validation.

        Every class stays in training. The validation part is empty where every group is too large to be held out.
        """
        kept, held_out = hold_out(strata(self.kind, examples.labels), examples.groups, seed)
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


def _read(path: DataFile, settings: Settings, on_error: OnError, log: Log) -> Examples:
    """The examples of a file; DataError, with file and line, for a row that lacks a column, its text or its label."""
    if not is_readable_twice(str(path)):
        raise DataError(f"{path}: no such file: check the name")
    cells, group = settings.cells, settings.group

    def example(record: Record) -> tuple[Row, Answer, str, str | None]:
        row, label = example_row(record, settings.text), cells.read(record)
        return row, label, record.where, None if group is None else record.text(group)

    found = read_rows(
        path,
        example,
        wanted="labelled rows",
        needed=[*settings.text, *cells.needed, *([] if group is None else [group])],
        columns=settings.columns,
        encoding=settings.encoding,
        on_error=on_error,
        log=log,
    )
    rows, labels, sources, groups = map(list, zip(*found, strict=True))
    return Examples(rows, labels, sources, None if group is None else groups)


def _held_out(settings: Settings, examples: Examples) -> tuple[Examples, Examples]:
    """What is kept to learn from, and a stratified fifth for the test, in whole groups. DataError where it is empty."""
    kept, held_out = hold_out(strata(settings.kind, examples.labels), examples.groups, seed=0)
    if not held_out:
        raise DataError(
            f"{settings.name}: wanted rows that can be held out for the test, found none; name a file of test items in"
            ' a task file (test = "FILE")'
        )
    if settings.kind == "multilabel":
        kept, held_out = keep_every_label(examples.labels, examples.groups, kept, held_out)
    return examples.take(kept), examples.take(held_out)


def _without_test(train: Examples, test: Examples, text: Sequence[str], path: DataFile) -> tuple[Examples, int]:
    """The training rows whose texts and groups are not in test, and how many there are of others.

    Raises DataError, naming `path`, where no row is left.
    """
    seen = {tuple(row[column] for column in text) for row in test.rows}
    groups = set(test.groups or ())
    own = [
        index
        for index, row in enumerate(train.rows)
        if tuple(row[column] for column in text) not in seen
        and (train.groups is None or train.groups[index] not in groups)
    ]
    if not own:
        raise DataError(f"{path}: wanted rows to learn from, but each of them is in test too: name others")
    return train.take(own), len(train) - len(own)


def _classes(train: Examples, test: Examples, settings: Settings) -> tuple[str, ...]:
    """The sorted labels of train; DataError where there is nothing to tell apart, or where test has a label that train
    lacks."""
    if settings.kind == "regression":
        if len(set(train.labels)) < 2:
            raise DataError(
                f"{settings.name}: wanted different numbers in {settings.label!r}, got {train.labels[0]!r} in each row"
            )
        return ()
    found, where = labels_in(settings.kind, train.labels), f"in {settings.label!r}"
    labels = tuple(sorted(found))
    if settings.kind == "multilabel" and not labels:
        raise DataError(f"{settings.name}: wanted labels {where}, found none in any row: name another column")
    if settings.kind == "classification" and len(labels) < 2:
        raise DataError(f"{settings.name}: wanted two classes or more {where}, found only {labels[0]!r}")
    for column in settings.label_columns:
        if column not in found:
            raise DataError(f"{settings.name}: {column!r} is 0 in each row to learn from: leave the column out")
    for answer, source in zip(test.labels, test.sources, strict=True):
        for label in sorted(labels_in(settings.kind, [answer]) - found):
            raise DataError(f"{source}: no training row has the label {label!r}: correct it, or add some")
    return labels


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))
