"""The rows of a file with their predictions, in memory that does not grow with their number. Knows files and rows, not
how a prediction is made."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from chainrule.errors import DataError
from chainrule.storage.columns import Record
from chainrule.storage.files import atomic_write
from chainrule.storage.records import Log, OnError, Skipped, format_of, log_once, no_log, read_records
from chainrule.tasks.answers import Answer, LabelCells
from chainrule.tasks.predictor import Predictor, generates
from chainrule.tasks.prompt import Row
from chainrule.tasks.rows import example_row

Value = TypeVar("Value")
_JSON = (".jsonl", ".ndjson")
_ROWS_IN_MEMORY = 4096  # a multiple of the batches of all predictors


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
    while part := list(islice(rest, _ROWS_IN_MEMORY)):
        yield part


@dataclass(frozen=True)
class Predicted:
    """rows: how many were written. empty: how many of them without a prediction, and why the first has none."""

    rows: int
    empty: Skipped


def predict_file(
    predictor: Predictor,
    source: str,
    out: Path,
    *,
    encoding: str = "utf-8",
    on_error: OnError = "stop",
    log: Log = no_log,
    show: Callable[[int], None] = lambda rows: None,
) -> Predicted:
    """Write the rows of `source` to `out`, one for one and in their order, each with its prediction.

    `out` is a .csv, .tsv or .jsonl; columns `prediction` and `probability of <label>` are added. Several labels at once
    are a list in a .jsonl, elsewhere joined by |; a number has no probabilities. The prediction of an
    empty line of a .txt is empty. With on_error="skip" so is that of a row that lacks the predictor's columns or their
    text; a row that cannot be read is written as empty cells. `show` is called with the number of rows done. Raises
    DataError for a file of another kind, one that has such a column already, and a row that is wrong: before anything
    is predicted, if `source` can be read twice.
    """
    if format_of(str(out)) not in (".csv", ".tsv", *_JSON):
        raise DataError(f"--out {out}: wanted a file ending in .csv, .tsv or .jsonl, got another; rename it")
    empty, unread = Skipped(), Skipped()
    read = partial(rows_to_predict, source, predictor.columns, encoding=encoding, on_error=on_error, log=log_once(log))
    added = ["prediction", *(f"probability of {label}" for label in (() if generates(predictor) else predictor.labels))]
    if on_error == "stop" and Path(source).is_file():
        for record, _ in read(Skipped(), Skipped()):
            _check_new(record, added)
    count = 0
    with atomic_write(out) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        write = _writer(file, format_of(str(out)), added)
        for part in _parts(read(empty, unread)):
            made = predictions(predictor, (row for _, row in part))
            for (record, _), prediction in zip(part, made, strict=True):
                _check_new(record, added)
                write(record, _values(prediction))
                count += 1
                show(count)
        if count and unread.count == count:
            raise DataError(f"{source}: wanted rows, and none can be read: {unread.note}")
    return Predicted(count, empty)


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


def _check_new(record: Record | None, added: Sequence[str]) -> None:
    if record is None:
        return
    for column in added:
        if column in record.values:
            raise DataError(
                f"{record.where}: wanted rows without a column {column!r}, which is added; rename or remove it"
            )


def _writer(file: IO[str], suffix: str, added: Sequence[str]) -> Callable[[Record | None, list[Any]], None]:
    """What writes a row and the values of its added columns; where there are none, empty cells or nulls."""
    if suffix in _JSON:

        def write_line(record: Record | None, values: list[Any]) -> None:
            row = dict(record.values) if record is not None else {}
            file.write(_json(row | dict(zip(added, values or [None] * len(added), strict=True)), record) + "\n")

        return write_line
    columns: list[str] | None = None  # of the rows, without the added ones
    pending = 0  # rows that could not be read, before the first one, which has the columns
    delimiter = "\t" if suffix == ".tsv" else ","
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    careful = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write_row(record: Record | None, values: list[Any]) -> None:
        nonlocal columns, pending
        if columns is None:
            if record is None:
                pending += 1
                return
            columns = list(record.values)
            writer.writerow([*columns, *added])
            for _ in range(pending):
                writer.writerow([""] * (len(columns) + len(added)))
        cells = [""] * len(columns) if record is None else _cells(record, columns)
        # csv before Python 3.13 leaves a carriage return alone, though readers take it as the end of a row.
        chosen = careful if any("\r" in cell for cell in cells) else writer
        said = [LabelCells.separator.join(one) if isinstance(one, list) else one for one in values]
        chosen.writerow([*cells, *(said or [""] * len(added))])

    return write_row


def _cells(record: Record, columns: Sequence[str]) -> list[str]:
    """The row's cells, a null as an empty one. Raises DataError for another column, and for what is no text."""
    for column, value in record.values.items():
        if column not in columns:  # rows of a .jsonl may have others
            raise DataError(
                f"{record.where}: wanted rows that all have the first one's columns, got {column!r} too; use --out with"
                " a name that ends in .jsonl"
            )
        if isinstance(value, bytes):
            record.text(column)
    strings = record.strings
    return [strings.get(column, "") for column in columns]


def _json(row: dict[str, Any], record: Record | None) -> str:
    """A line of JSON; NaN and infinity, which it does not know, as null."""

    def plain(value: Any) -> str:
        if isinstance(value, bytes) and record is not None:
            return value.decode(record.encoding)
        return str(value)

    try:
        return json.dumps(row, ensure_ascii=False, default=plain, allow_nan=False)
    except UnicodeDecodeError as error:
        where = record.where if record is not None else ""
        raise DataError(
            f"{where}: a column has bytes that are no text ({error}), which no .jsonl holds: leave that column out"
        ) from None
    except ValueError:
        return json.dumps(_finite(row), ensure_ascii=False, default=plain)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
