"""Labelled examples (x_task, y_task): a task, its rows from files, its subsets of N labels. Knows text, not models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chainrule.adaptation.prompt import Prompt, fill
from chainrule.adaptation.prompt import Row as Row
from chainrule.adaptation.splits import hold_out, stratified_order
from chainrule.adaptation.task_file import Kind, Settings, read_task_file
from chainrule.text.records import read_records
from chainrule.text.rows import missing


@dataclass(frozen=True)
class Examples:
    """Labelled rows, side by side. `sources`: "file:line" of each; `groups`: their author or document, where named."""

    rows: Sequence[Row]
    labels: Sequence[str]
    sources: Sequence[str]
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> "Examples":
        """The examples at these places, in this order."""
        groups = None if self.groups is None else [self.groups[i] for i in indices]
        return Examples(
            [self.rows[i] for i in indices],
            [self.labels[i] for i in indices],
            [self.sources[i] for i in indices],
            groups,
        )


@dataclass(frozen=True)
class Task:
    """What is to be learned: examples to learn from and to be judged on, and how a prompt asks. Made by `load`."""

    kind: Kind
    text: tuple[str, ...]  # the text columns
    label: str  # the label's column
    train: Examples
    test: Examples
    labels: tuple[str, ...]  # the sorted classes of train; () where the kind is "free"
    prompt: Prompt | None = None
    input: str | None = None  # the template of what finetuning reads; None: the text columns joined by a newline
    dropped: int = 0  # training rows left out because their texts, or their groups, stand in test too
    path: Path | None = None

    @classmethod
    def load(cls, path: str | Path, *, text: str | Sequence[str] = (), label: str = "") -> "Task":
        """The task of a .toml; or of a data file with these columns, asked by the default prompt.

        Without test rows a stratified fifth is held out, always the same one. Raises ValueError, with file and line,
        for what is missing, empty or unknown.
        """
        path = Path(path)
        text = (text,) if isinstance(text, str) else tuple(text)
        if not path.is_file():
            raise ValueError(f"{path}: no such file: check the name")
        if path.suffix == ".toml":
            if text or label:
                raise ValueError(f"{path}: a task file names its own text and label columns: leave the options out")
            return cls.read(read_task_file(path), path)
        if not text or not label:
            first = next(read_records(str(path)), None)
            there = f": name them out of {_listed(list(first.fields))}" if first else " of a file with rows"
            raise ValueError(f"{path}: wanted --text and --label, the names of its columns{there}")
        return cls.read(Settings(path, text, label, prompt=Prompt.default(text, label)), path)

    @classmethod
    def read(cls, settings: Settings, path: Path | None = None) -> "Task":
        """The task that the settings describe; errors as in `load`. `path`: the file that says so."""
        train = _read(settings.train, settings)
        if settings.test is not None:
            test = _read(settings.test, settings)
        else:
            kept, held = hold_out(_strata(settings.kind, train), train.groups, seed=0)
            if not held:
                raise ValueError(
                    f"{settings.train}: wanted rows that can be held out for the test, found none: name test"
                )
            train, test = train.take(kept), train.take(held)
        seen = {_texts(row, settings.text) for row in test.rows}
        judged = set(test.groups or ())
        own = [
            place
            for place, row in enumerate(train.rows)
            if _texts(row, settings.text) not in seen and (train.groups is None or train.groups[place] not in judged)
        ]
        dropped, train = len(train) - len(own), train.take(own)
        if not own:
            raise ValueError(
                f"{settings.train}: wanted rows to learn from, but each of them stands in test: name others"
            )
        labels = _classes(train, test, settings) if settings.kind == "classification" else ()
        for label in settings.prompt.words if settings.prompt else ():
            if label not in labels:
                raise ValueError(
                    f"{path}: [prompt.words] has {label!r}, none of the labels {_listed(labels)}: correct it"
                )
        return cls(
            settings.kind, settings.text, settings.label, train, test, labels,
            settings.prompt, settings.input, dropped, path,
        )  # fmt: skip

    @property
    def smallest(self) -> int:
        """The fewest labels worth learning from: 4, or one a class if that is more."""
        return max(4, len(self.labels))

    def subset(self, n: int | None, seed: int) -> Examples:
        """N labels to learn from: the first n of one order of the training rows; None for all of them.

        The order is the seed's, the same for every method; its beginnings are nested and stratified, with at least one
        row a class. Raises ValueError for n out of range.
        """
        least = max(1, len(self.labels))
        if n is not None and not least <= n <= len(self.train):
            reason = " (one a class)" if self.labels else ""
            raise ValueError(f"labels: wanted from {least}{reason} to {len(self.train)} (all of train), got {n}")
        return self.train.take(stratified_order(_strata(self.kind, self.train), seed)[:n].tolist())

    def split_validation(self, examples: Examples, seed: int) -> tuple[Examples, Examples]:
        """The examples to train on, and a stratified fifth, in whole groups, to validate with.

        Every class stays in the first. The second is empty where every group is too large to be held out.
        """
        kept, held = hold_out(_strata(self.kind, examples), examples.groups, seed)
        return examples.take(kept), examples.take(held)

    def row(self, row: Row | str, where: str = "row") -> Row:
        """The row itself, or the one that a text stands for in a task of one text column.

        Raises ValueError, naming `where`, for a text column that is not there, and for a row without text.
        """
        return checked_row(row, self.text, where)

    def finetune_text(self, row: Row | str) -> str:
        """What finetuning and the bag of words read of a row; errors as in `row`."""
        return joined_text(self.row(row), self.text, self.input)

    def checked_prompt(self) -> Prompt:
        """The prompt, for those who ask: raises ValueError where there is none, or its label words will not do."""
        if self.prompt is None:
            example = Prompt.default(self.text, self.label).template
            raise ValueError(
                f"{self.path or 'task'}: prompting wants [prompt] and its template, as {example!r}: add it"
            )
        self.prompt.check_columns(self.text)
        self.prompt.check_words(self.labels)
        return self.prompt


def checked_row(row: Row | str, text: Sequence[str], where: str = "row") -> Row:
    """What `Task.row` gives, for the text columns `text`."""
    if isinstance(row, str):
        if len(text) > 1:
            raise ValueError(f"{where}: wanted the columns {_listed(text)}, got one text: give a mapping of columns")
        row = {text[0]: row}
    for column in text:
        if column not in row:
            raise missing(where, column, list(row))
    if not any(row[column].strip() for column in text):
        raise ValueError(f"{where}: wanted a text, {_listed(text)} is empty: write one, or leave the row out")
    return row


def joined_text(row: Row, text: Sequence[str], template: str | None) -> str:
    """What `Task.finetune_text` reads: the filled template, or the text columns joined by a newline."""
    return "\n".join(row[column] for column in text) if template is None else fill(template, row)


def _read(path: Path, settings: Settings) -> Examples:
    """The examples of a file; ValueError, with file and line, for a row that lacks a column, its text or its label."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file: check the name")
    rows: list[Row] = []
    sources: list[str] = []
    for record in read_records(str(path), columns=settings.columns or None):
        where = f"{path}:{record.line}"
        row = checked_row(record.fields, settings.text, where)
        for column in (settings.label, settings.group):
            if column is not None and column not in row:
                raise missing(where, column, list(row))
        if not row[settings.label].strip():
            raise ValueError(f"{where}: wanted a label, {settings.label!r} is empty: write one, or leave the row out")
        rows.append(row)
        sources.append(where)
    if not rows:
        raise ValueError(f"{path}: wanted labelled rows, found none: name another file")
    groups = None if settings.group is None else [row[settings.group] for row in rows]
    return Examples(rows, [row[settings.label] for row in rows], sources, groups)


def _classes(train: Examples, test: Examples, settings: Settings) -> tuple[str, ...]:
    """The sorted labels of train; ValueError where it has one only, or the test another."""
    labels = tuple(sorted(set(train.labels)))
    if len(labels) < 2:
        raise ValueError(
            f"{settings.train}: wanted two classes or more in {settings.label!r}, found {labels[0]!r} alone"
        )
    for label, source in zip(test.labels, test.sources, strict=True):
        if label not in labels:
            raise ValueError(f"{source}: the label {label!r} stands in no training row: correct it, or add some")
    return labels


def _strata(kind: Kind, examples: Examples) -> Sequence[str]:
    return examples.labels if kind == "classification" else [""] * len(examples)


def _texts(row: Row, text: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[column] for column in text)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))
