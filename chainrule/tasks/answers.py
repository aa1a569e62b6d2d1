"""What may be the label of a row, by the kind of task: how it is read from a file, and how a predictor's outputs say
it. Knows rows and numbers, not how they were predicted.

Shapes: N rows, C classes.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chainrule.errors import DataError
from chainrule.storage.columns import NO_TEXT, Record

Kind = Literal["classification", "multilabel", "regression", "free"]
KINDS = {
    "classification": "one of some labels",
    "multilabel": "several labels at once, or none",
    "regression": "a number",
    "free": "an answer judged by exact match",
}
# A label (str), several labels in alphabetical order (tuple[str, ...]), a number (float), or a free answer (str). It is
# Any, as the caller knows the kind of the task.
Answer: TypeAlias = Any

_YES, _NO = ("1", "1.0", "true", "True"), ("0", "0.0", "false", "False")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class LabelCells:
    """Where a row's label is. `columns`: those of 0 and 1, one a label, where kind is "multilabel"; else one column.

    `separator` stands between the labels in a cell of text. `none`: an empty cell means that no label applies; without
    it such a row is refused, as it may not have been labelled.
    """

    kind: Kind
    column: str
    columns: tuple[str, ...] = ()
    separator: str = "|"
    none: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a row must have."""
        return self.columns or (self.column,)

    def read(self, record: Record) -> Answer:
        """The label of a row of a file; DataError, with file and line, for what is none of this kind."""
        if self.columns:
            return tuple(sorted(column for column in self.columns if _yes_or_no(record, column)))
        if self.kind == "multilabel":
            return self._several(record)
        text = record.text(self.column).strip()
        if not text:
            raise DataError(f"{record.where}: wanted a label, {self.column!r} is empty: {NO_TEXT}")
        return _number(record, self.column, text) if self.kind == "regression" else text

    def _several(self, record: Record) -> tuple[str, ...]:
        value = record.values.get(self.column)
        if isinstance(value, list):
            labels = [_element(record, self.column, each) for each in value]
        elif (value is None or value == "") and self.none and self.column in record.values:
            labels = []
        else:
            null = value is None and self.column in record.values
            text = "" if null else record.text(self.column)
            if not text.strip():
                if self.none:
                    return ()
                raise DataError(
                    f"{record.where}: wanted labels, {self.column!r} is {'null' if null else 'empty'}: write none ="
                    " true into the task file if such rows have no label, or skip them with --on-error skip"
                )
            labels = [label.strip() for label in text.split(self.separator)]
        if not all(labels):
            raise DataError(f"{record.where}: wanted labels in {self.column!r}, got an empty one among them: {NO_TEXT}")
        if len({*labels}) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise DataError(f"{record.where}: {self.column!r} has the label {twice!r} twice: remove one of them")
        return tuple(sorted(labels))


def _element(record: Record, column: str, value: Any) -> str:
    """A label of a list: a text, or a number or a boolean as JSON writes it."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int | float) and value == value:
        return json.dumps(value)
    raise DataError(f"{record.where}: wanted a list of labels in {column!r}, got {value!r} in it: {NO_TEXT}")


def _yes_or_no(record: Record, column: str) -> bool:
    text = record.text(column).strip()
    if text not in _YES + _NO:
        raise DataError(f"{record.where}: wanted 0 or 1 in {column!r}, got {text!r}: {NO_TEXT}")
    return text in _YES


def _number(record: Record, column: str, text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise DataError(f"{record.where}: wanted a number in {column!r}, got {text!r}: {NO_TEXT}")
    return number


def answer_of(kind: Kind, labels: Sequence[str], outputs: NDArray[np.floating]) -> Answer:
    """The answer that a row's outputs mean: probabilities (C,) of the labels, or the number (1,)."""
    if kind == "multilabel":
        return tuple(label for label, found in zip(labels, outputs.tolist(), strict=True) if found > 0.5)
    return float(outputs[0]) if kind == "regression" else labels[int(outputs.argmax())]


def targets_of(kind: Kind, answers: Sequence[Answer], labels: Sequence[str]) -> NDArray[np.float64]:
    """(N, C): 1 where a label applies, else 0; of numbers (N, 1)."""
    if kind == "regression":
        return np.array(answers, np.float64).reshape(-1, 1)
    number = {label: index for index, label in enumerate(labels)}
    targets = np.zeros((len(answers), len(labels)))
    for row, answer in zip(targets, answers, strict=True):
        row[[number[label] for label in answer]] = 1.0
    return targets


def labels_in(kind: Kind, answers: Iterable[Answer]) -> set[str]:
    """All labels that occur."""
    if kind in ("free", "regression"):
        return set()
    return {label for answer in answers for label in (answer if kind == "multilabel" else (answer,))}


def strata(kind: Kind, answers: Sequence[Answer]) -> Sequence[str]:
    """(N,) what a split of the rows keeps the shares of: the label of each, the rarest of several, or nothing."""
    if kind == "multilabel":
        return rarest_labels(answers)
    return answers if kind == "classification" else [""] * len(answers)


def rarest_labels(answers: Sequence[tuple[str, ...]]) -> list[str]:
    """(N,) the rarest label of each row, "" where it has none: strata of which each label has some rows."""
    counts: dict[str, int] = {}
    for answer in answers:
        for label in answer:
            counts[label] = counts.get(label, 0) + 1
    return [min(answer, key=lambda label: (counts[label], label), default="") for answer in answers]


def in_words(answer: Answer) -> str:
    """An answer for a person: labels with commas between them, a number with 4 significant digits.

    >>> in_words(("a", "b")), in_words(()), in_words(3.14159)
    ('a, b', 'none', '3.142')
    """
    if isinstance(answer, tuple):
        return ", ".join(answer) or "none"
    return f"{answer:.4g}" if isinstance(answer, float) else str(answer)
