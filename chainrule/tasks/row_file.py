"""The rows of a file, in pieces, and the same rows written with more columns, in memory that does not grow with their
number. Knows files and rows, not what is added to them."""

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
from chainrule.storage.remote import without_secrets, written_output
from chainrule.tasks.prompt import Row
from chainrule.tasks.row_writer import check_format, check_new, row_writer
from chainrule.tasks.rows import example_row

Value = TypeVar("Value")
ROWS_AT_ONCE = 1024  # in memory; a worker or a part takes so many

Rows = list[Row | None]  # None for a row of which nothing can be said
# From some rows after others to the values of the added columns, [] for a row that has none.
Values = Callable[[Iterable[Rows]], Iterator[list[list[Any]]]]


@dataclass(frozen=True)
class Written:
    """rows: how many were written. empty: how many of them without values, and why the first has none."""

    rows: int
    empty: Skipped


class InputRows:
    """The rows of `source` with these text columns, and the names of the columns that are to be added."""

    def __init__(
        self,
        source: str,
        columns: Sequence[str],
        added: Sequence[str],
        *,
        encoding: str = "utf-8",
        on_error: OnError = "stop",
        log: Log = no_log,
    ) -> None:
        self.source, self.added, self.empty, self.unread = source, added, Skipped(), Skipped()
        self._read = partial(rows_to_predict, source, columns, encoding=encoding, on_error=on_error, log=log_once(log))
        self._stop = on_error == "stop"

    def check(self) -> None:
        """Raise DataError for the first row that is wrong, if the source can be read twice and such rows stop."""
        if self._stop and is_readable_twice(self.source):
            for record, _ in self._read(Skipped(), Skipped()):
                check_new(record, self.added)

    def records(self) -> Iterator[list[tuple[Record | None, Row | None]]]:
        """The rows, ROWS_AT_ONCE at a time."""
        yield from in_parts(self._read(self.empty, self.unread))

    def pieces(self) -> Iterator[Rows]:
        """The same as whoever says something of them reads them."""
        return ([row for _, row in part] for part in self.records())


def in_parts(values: Iterable[Value]) -> Iterator[list[Value]]:
    """ROWS_AT_ONCE of them at a time."""
    rest = iter(values)
    while part := list(islice(rest, ROWS_AT_ONCE)):
        yield part


def write_rows(
    rows: InputRows, out: str | Path, values: Values, show: Callable[[int], None] = lambda rows: None
) -> Written:
    """Write the rows to `out`, one for one and in their order, each with its values in the added columns.

    `out` is a .csv, .tsv or .jsonl. A row without text has none of the values; one that cannot be read is written as
    empty cells. `show` is called with the number of rows done. Raises DataError for a file of another kind, and as
    `InputRows.check` before anything is computed.
    """
    check_format(str(out))
    rows.check()
    waiting: deque[list[tuple[Record | None, Row | None]]] = deque()  # read, and not done yet

    def pieces() -> Iterator[Rows]:
        for part in rows.records():
            waiting.append(part)
            yield [row for _, row in part]

    count = 0
    with written_output(out) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        write = row_writer(file, format_of(str(out)), rows.added)
        for made in values(pieces()):
            for (record, _), cells in zip(waiting.popleft(), made, strict=True):
                check_new(record, rows.added)
                write(record, cells)
                count += 1
                show(count)
        if count and rows.unread.count == count:
            raise DataError(f"{without_secrets(rows.source)}: wanted rows, and none can be read: {rows.unread.note}")
    return Written(count, rows.empty)


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
