"""The rows of a file with their predictions, in memory that does not grow with their number. Knows files and rows, not
how a prediction is made."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from chainrule.errors import DataError
from chainrule.storage.columns import Record
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
from chainrule.storage.remote import written_output
from chainrule.tasks.answers import Answer
from chainrule.tasks.examples import Row, example_row
from chainrule.tasks.predictor import Predictor, generates
from chainrule.tasks.row_writer import check_format, check_new, row_writer

Value = TypeVar("Value")
ROWS_AT_ONCE = 1024  # in memory; a worker or a part takes so many


def predictions(predictor: Predictor, rows: Iterable[Row | str | None]) -> Iterator[dict[str, Any]]:
    """For row after row its `label`, and the `probabilities` of all where the predictor has some.

    Of several labels at once they are `labels`, a list; a number is `value`. Where there is no row, but None, the label
    is None.
    """
    for part in _parts(rows):
        made = predictor.stream(row for row in part if row is not None)
        for row in part:
            if row is None:
                yield {"label": None}
                continue
            label, found = next(made)
            named = dict(zip(predictor.labels, found.tolist(), strict=True)) if len(found) else None
            said = {_key(label): list(label) if isinstance(label, tuple) else label}
            yield said if named is None else {**said, "probabilities": named}


def _key(answer: Answer) -> str:
    """What an answer is called in JSON."""
    return "labels" if isinstance(answer, tuple) else "value" if isinstance(answer, float) else "label"


def _parts(values: Iterable[Value]) -> Iterator[list[Value]]:
    rest = iter(values)
    while part := list(islice(rest, ROWS_AT_ONCE)):
        yield part


@dataclass(frozen=True)
class Predicted:
    """rows: how many were written. empty: how many of them without a prediction, and why the first has none."""

    rows: int
    empty: Skipped


# The predictions of rows, many at a time and in order; None for a row that has none.
Answers = Callable[[Iterable[list[Row | None]]], Iterator[list[dict[str, Any]]]]


class RowsToPredict:
    """The rows of `source` for a predictor, in pieces of ROWS_AT_ONCE, and which columns are added to them."""

    def __init__(
        self,
        predictor: Predictor,
        source: str,
        *,
        encoding: str = "utf-8",
        on_error: OnError = "stop",
        log: Log = no_log,
    ) -> None:
        self.source, self.empty, self.unread = source, Skipped(), Skipped()
        of_labels = () if generates(predictor) else predictor.labels
        self.added = ["prediction", *(f"probability of {label}" for label in of_labels)]
        self._read = partial(
            rows_to_predict, source, predictor.columns, encoding=encoding, on_error=on_error, log=log_once(log)
        )
        self._stop = on_error == "stop"

    def check(self) -> None:
        """Raise DataError for the first row that is wrong, if the source can be read twice and such rows stop."""
        if self._stop and is_readable_twice(self.source):
            for record, _ in self._read(Skipped(), Skipped()):
                check_new(record, self.added)

    def pieces(self) -> Iterator[list[tuple[Record | None, Row | None]]]:
        yield from _parts(self._read(self.empty, self.unread))


def predict_file(
    predictor: Predictor,
    source: str,
    out: str | Path,
    *,
    encoding: str = "utf-8",
    on_error: OnError = "stop",
    log: Log = no_log,
    show: Callable[[int], None] = lambda rows: None,
    answers: Answers | None = None,
) -> Predicted:
    """Write the rows of `source` to `out`, one for one and in their order, each with its prediction.

    `out` is a .csv, .tsv or .jsonl; columns `prediction` and `probability of <label>` are added. Several labels at once
    are a list in a .jsonl, elsewhere joined by |; a number has no probabilities. The prediction of an
    empty line of a .txt is empty. With on_error="skip" so is that of a row that lacks the predictor's columns or their
    text; a row that cannot be read is written as empty cells. `show` is called with the number of rows done. `answers`
    predicts elsewhere than here. Raises DataError for a file of another kind, one that has such a column already, and a
    row that is wrong: before anything is predicted, if `source` can be read twice.
    """
    check_format(str(out))
    rows = RowsToPredict(predictor, source, encoding=encoding, on_error=on_error, log=log)
    rows.check()
    waiting: deque[list[tuple[Record | None, Row | None]]] = deque()  # read, and not predicted yet

    def pieces() -> Iterator[list[Row | None]]:
        for part in rows.pieces():
            waiting.append(part)
            yield [row for _, row in part]

    count = 0
    with written_output(out) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        write = row_writer(file, format_of(str(out)), rows.added)
        for made in map(partial(_answered, predictor), pieces()) if answers is None else answers(pieces()):
            for (record, _), prediction in zip(waiting.popleft(), made, strict=True):
                check_new(record, rows.added)
                write(record, _values(prediction))
                count += 1
                show(count)
        if count and rows.unread.count == count:
            raise DataError(f"{source}: wanted rows, and none can be read: {rows.unread.note}")
    return Predicted(count, rows.empty)


def _answered(predictor: Predictor, rows: list[Row | None]) -> Iterable[dict[str, Any]]:
    return predictions(predictor, rows)


def rows_to_predict(
    source: str,
    columns: Sequence[str],
    empty: Skipped,
    unread: Skipped,
    *,
    encoding: str = "utf-8",
    on_error: OnError = "stop",
    log: Log = no_log,
) -> Iterator[tuple[Record | None, Row | None]]:
    """Each row of a file, None if it cannot be read, and as a predictor of these columns reads it, None if it cannot.

    `empty` counts the rows without a prediction, `unread` those of them that could not be read.
    """
    for record in read_records(source, encoding=encoding, log=log):
        if isinstance(record, DataError):
            if on_error == "stop":
                raise record
            empty.add(record)
            unread.add(record)
            yield None, None
            continue
        try:
            yield record, example_row(record, columns)
        except DataError as error:
            if on_error == "stop" and not _is_blank_line(record):
                raise
            empty.add(error)
            yield record, None


def _is_blank_line(record: Record) -> bool:
    return format_of(record.source) == ".txt" and not record.values["text"].strip()


def _values(prediction: dict[str, Any]) -> list[Any]:
    """The values of the added columns; [] where there is no prediction."""
    answer = next(iter(prediction.values()))
    if answer is None:
        return []
    return [answer, *(round(found, 6) for found in prediction.get("probabilities", {}).values())]
