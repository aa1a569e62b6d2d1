"""Rows of a file written again with more columns: .csv, .tsv, .jsonl. Knows rows, not what is added to them."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from typing import IO, Any

from chainrule.errors import DataError
from chainrule.storage.columns import Record
from chainrule.storage.records import format_of
from chainrule.tasks.answers import LabelCells

_JSON = (".jsonl", ".ndjson")


def check_format(out: str) -> None:
    """DataError for the name of a file that is not written."""
    if format_of(out) not in (".csv", ".tsv", *_JSON):
        raise DataError(f"--out {out}: wanted a file ending in .csv, .tsv or .jsonl, got another; rename it")


def check_new(record: Record | None, added: Sequence[str]) -> None:
    """DataError for a row that has one of the added columns already."""
    if record is None:
        return
    for column in added:
        if column in record.values:
            raise DataError(
                f"{record.where}: wanted rows without a column {column!r}, which is added; rename or remove it"
            )


def row_writer(file: IO[str], suffix: str, added: Sequence[str]) -> Callable[[Record | None, list[Any]], None]:
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
        written = [LabelCells.separator.join(one) if isinstance(one, list) else one for one in values]
        chosen.writerow([*cells, *(written or [""] * len(added))])

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
