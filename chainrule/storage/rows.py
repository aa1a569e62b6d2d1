"""Rows of jsonl, parquet and plain lines, and the text in a column of a row. Knows columns, not what they are for."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from chainrule.errors import ChainruleError, DataError
from chainrule.storage.lines import Lines, undecodable

# Called with what is wrong with a row, which is then left out; where there is none, the error is raised.
OnSkip = Callable[[ChainruleError], None] | None
Row = tuple[int, dict[str, Any]]  # the line where it begins, from 1, and column -> value, as the file has it
NO_TEXT = "write one, or skip such rows with --on-error skip"  # what to do where a row lacks a value


def report(error: ChainruleError, on_skip: OnSkip) -> None:
    if on_skip is None:
        raise error
    on_skip(error)


class Skipped:
    """An OnSkip that counts, and remembers the first reason."""

    def __init__(self) -> None:
        self.count = 0
        self.first: ChainruleError | None = None

    def __call__(self, error: ChainruleError) -> None:
        self.count += 1
        self.first = self.first or error

    @property
    def reason(self) -> str:
        """What is wrong with the first, without what to do about it: that was done."""
        return str(self.first).rpartition(": ")[0] or str(self.first)

    @property
    def note(self) -> str:
        return f"{self.count} skipped, the first because of {self.reason}"


def missing(path: str, wanted: str, columns: Sequence[str]) -> DataError:
    return DataError(f"{path}: no {wanted!r} there, only {', '.join(map(repr, columns))}: name one of these")


def check_names(where: str, columns: Sequence[str]) -> None:
    """Raise DataError for a column's name that stands twice."""
    name, times = Counter(columns).most_common(1)[0] if columns else ("", 0)
    if times > 1:
        raise DataError(f"{where}: the column {name!r} stands {times} times: rename all but one of them")


def text_rows(lines: Lines, path: str, on_skip: OnSkip) -> Iterator[Row]:
    for line in lines:
        if (bad := lines.take_bad()) is not None:
            report(undecodable(path, lines.encoding, bad), on_skip)
        else:
            yield lines.number, {"text": line.rstrip("\r\n")}


def json_rows(lines: Lines, path: str, on_skip: OnSkip) -> Iterator[Row]:
    for line in lines:
        if (bad := lines.take_bad()) is not None:
            report(undecodable(path, lines.encoding, bad), on_skip)
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():  # perhaps a lone surrogate, which is no text: encode raises
                json.dumps(row, ensure_ascii=False).encode()
        except ValueError as error:
            report(DataError(f"{path}:{lines.number}: not JSON ({error}): correct the line"), on_skip)
            continue
        if isinstance(row, dict):
            yield lines.number, row
        else:
            report(DataError(f"{path}:{lines.number}: wanted a JSON object, got {line.strip()[:40]}"), on_skip)


def parquet_rows(path: str, wanted: str | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            check_names(path, file.schema_arrow.names)
            if wanted is not None and wanted not in file.schema_arrow.names:
                raise missing(path, wanted, file.schema_arrow.names)
            line = 0
            for batch in file.iter_batches(batch_size=256, columns=None if wanted is None else [wanted]):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a whole parquet file ({reason}): fetch it again") from None


def is_null(value: Any) -> bool:
    """Whether there is no value: a null, or a NaN, which is how a null of numbers is often written."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(row: Mapping[str, Any], column: str, where: str, encoding: str = "utf-8", cure: str = NO_TEXT) -> str:
    """The text in a column; a number or a boolean as JSON writes it, bytes by `encoding`.

    Raises DataError, naming `where`, if the column is not there, is null, or holds what is no text.
    """
    value = row.get(column)
    if isinstance(value, str):
        return value
    if column not in row:
        raise missing(where, column, list(row))
    if is_null(value):
        raise DataError(f"{where}: {column!r} is null: {cure}")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError as error:
            raise undecodable(f"{where}: {column!r}", encoding, error.start) from None
    kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__
    raise DataError(f"{where}: wanted text in {column!r}, got {kind}: name a column of text, or write text there")


def strings(row: Mapping[str, Any], encoding: str) -> dict[str, str]:
    """The row with each value as a string, lists and the like as JSON; what is null, or undecodable, is left out."""
    found = {}
    for column, value in row.items():
        if isinstance(value, str):
            found[str(column)] = value
        elif isinstance(value, bytes):
            try:
                found[str(column)] = value.decode(encoding)
            except UnicodeDecodeError:
                continue  # `text_of` says it, if it is asked
        elif not is_null(value):
            found[str(column)] = _string(value)
    return found


def _string(value: Any) -> str:
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
