"""Files of rows: csv, tsv, jsonl, parquet and plain lines become records, each with its file and line. Knows formats,
not what a column is for."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from os.path import splitext
from pathlib import Path
from typing import Literal

from chainrule.errors import DataError
from chainrule.storage.columns import Record, check_distinct, missing_column
from chainrule.storage.delimited import SEPARATORS, is_quoted, separator_of, table_rows
from chainrule.storage.lines import Lines, checked_encoding, empty_file, opened, undecodable
from chainrule.storage.remote import is_remote, opened_remote, without_secrets

Log = Callable[[str], None]  # called with a line for a person
OnError = Literal["stop", "skip"]
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def no_log(line: str) -> None:
    """A Log that drops the line."""


def log_once(log: Log) -> Log:
    """`log`, but for lines that it had before: a file may be read several times."""
    logged: set[str] = set()

    def once(line: str) -> None:
        if line not in logged:
            logged.add(line)
            log(line)

    return once


class Skipped:
    """Counts what was skipped, and remembers the first reason."""

    def __init__(self) -> None:
        self.count = 0
        self.first: DataError | None = None

    def add(self, error: DataError) -> None:
        self.count += 1
        self.first = self.first or error

    @property
    def reason(self) -> str:
        """What is wrong with the first, without what to do about it: that was done."""
        return str(self.first).rpartition(": ")[0] or str(self.first)

    @property
    def note(self) -> str:
        return f"{self.count} skipped, the first because of {self.reason}"


def format_of(path: str) -> str:
    """The one of FORMATS that a file's name says; .txt for standard input and for any other name."""
    path = without_secrets(path) if "://" in path else path
    suffix = splitext(path.removesuffix(".gz"))[1].lower()  # noqa: PTH122 (asked of every row: a Path takes long)
    if suffix == ".json":
        raise DataError(f"{path}: wanted one JSON value a line, as .jsonl: rename the file, or convert it")
    return suffix if suffix in FORMATS else ".txt"


def read_records(
    path: str,
    *,
    encoding: str = "utf-8",
    columns: Sequence[str] | None = None,
    only: str | None = None,
    log: Log = no_log,
) -> Iterator[Record | DataError]:
    """The rows of a file; those of a .txt file, or of standard input ("-"), are its lines, in a column "text".

    In place of a row that cannot be read comes the DataError, with file and line or byte, that says why: to be raised,
    or counted. Raises DataError where the file as a whole cannot be read, UnusableFileError where none of its rows can.

    A byte-order mark decides the encoding, whatever `encoding` is. columns: the names in a csv or tsv file that has no
    header. only: the one column that is needed; DataError where a table has none of that name. `log` is called for a
    separator that is no comma.
    """
    encoding = checked_encoding(encoding)
    form = format_of(path)
    if form == ".parquet":
        yield from _parquet_rows(path, encoding, only)
        return
    quoted = form == ".csv" or (form == ".tsv" and _is_quoted(path, encoding))
    with opened(path) as file:
        lines = Lines(file, path, encoding, any_end=form in (".csv", ".tsv"))
        match form:
            case ".jsonl" | ".ndjson":
                yield from _json_rows(lines)
            case ".csv" | ".tsv":
                separator = "\t" if form == ".tsv" else separator_of(lines.head, len(columns) if columns else None)
                if form == ".csv" and separator != ",":
                    log(f"{lines.path}: its columns are separated by {SEPARATORS[separator]}")
                yield from table_rows(lines, separator, quoted, columns, only)
            case _:
                yield from _text_rows(lines)
        if lines.number == 0:
            raise empty_file(path)


def is_readable_twice(path: str) -> bool:
    """Whether it is a file, here or elsewhere: standard input and pipes can be read once."""
    return is_remote(path) or Path(path).is_file()


def _is_quoted(path: str, encoding: str) -> bool:
    """Whether a .tsv has quoted fields; what can be read only once has none."""
    if not is_readable_twice(path):
        return False
    with opened(path) as file:
        return is_quoted(Lines(file, path, encoding, any_end=True).raw())


def _text_rows(lines: Lines) -> Iterator[Record | DataError]:
    for line in lines:
        if (bad := lines.take_bad()) is not None:
            yield undecodable(lines.path, lines.encoding, bad)
        else:
            yield Record({"text": line.rstrip("\r\n")}, lines.path, lines.number, lines.encoding)


def _json_rows(lines: Lines) -> Iterator[Record | DataError]:
    for line in lines:
        if (bad := lines.take_bad()) is not None:
            yield undecodable(lines.path, lines.encoding, bad)
        elif line.strip():
            try:
                row = json.loads(line)
                if "\\ud" in line.lower():  # perhaps a lone surrogate, which is no text: encode raises
                    json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                yield DataError(f"{lines.path}:{lines.number}: not JSON ({error}): correct the line")
                continue
            if isinstance(row, dict):
                yield Record(row, lines.path, lines.number, lines.encoding)
            else:
                yield DataError(f"{lines.path}:{lines.number}: wanted a JSON object, got {line.strip()[:40]}")


def _parquet_rows(path: str, encoding: str, only: str | None) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    shown = without_secrets(path)
    try:
        with (
            opened_remote(path, seekable=True) if is_remote(path) else nullcontext(path) as source,
            pyarrow.parquet.ParquetFile(source, pre_buffer=False) as file,
        ):
            names = file.schema_arrow.names
            check_distinct(shown, names)
            if only is not None and only not in names:
                raise missing_column(shown, only, names)
            batches = file.iter_batches(batch_size=256, columns=None if only is None else [only])
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from (Record(row, shown, number, encoding) for number, row in enumerate(rows, 1))
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{shown}: not a whole parquet file ({reason}): fetch it again") from None
