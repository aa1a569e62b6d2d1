"""A row of a file, its columns, and the text in one of them. Knows values of any type, not how a file is read."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from chainrule.errors import DataError
from chainrule.storage.lines import undecodable

NO_TEXT = "write one, or skip such rows with --on-error skip"  # what to do where a row lacks a value


class Record(NamedTuple):
    """A row of a file."""

    values: dict[str, Any]  # by column, as the file has them: nulls, numbers and lists too
    source: str
    line: int  # where the row begins in `source`, from 1; of parquet the row's number
    encoding: str = "utf-8"  # of bytes among the values

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}"

    @property
    def strings(self) -> dict[str, str]:
        """All columns as text; nulls are left out."""
        return as_strings(self.values, self.encoding)

    def text(self, column: str, cure: str = NO_TEXT) -> str:
        """The column's text; DataError, with file and line, where it is missing, null, or no text."""
        return text_of(self.values, column, self.where, self.encoding, cure)


def missing_column(where: str, wanted: str, columns: Sequence[str]) -> DataError:
    return DataError(f"{where}: no column {wanted!r}, only {', '.join(map(repr, columns))}: name one of these")


def check_distinct(where: str, columns: Sequence[str]) -> None:
    """Raise DataError for a column's name that occurs more than once."""
    name, times = Counter(columns).most_common(1)[0] if columns else ("", 0)
    if times > 1:
        raise DataError(f"{where}: the column {name!r} occurs {times} times: rename all but one of them")


def text_of(row: Mapping[str, Any], column: str, where: str, encoding: str = "utf-8", cure: str = NO_TEXT) -> str:
    """The text in a column; a number or a boolean as JSON writes it, bytes by `encoding`.

    Raises DataError, naming `where`, if the column is missing, null, or holds a value that is no text. `cure`: what
    the error says to do about a null.
    """
    value = row.get(column)
    if isinstance(value, str):
        return value
    if column not in row:
        raise missing_column(where, column, list(row))
    if _is_null(value):
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


def as_strings(row: Mapping[str, Any], encoding: str) -> dict[str, str]:
    """The row with each value as a string, lists and objects as JSON; nulls, and bytes that do not decode, are left
    out."""
    found = {}
    for column, value in row.items():
        if isinstance(value, str):
            found[str(column)] = value
        elif isinstance(value, bytes):
            try:
                found[str(column)] = value.decode(encoding)
            except UnicodeDecodeError:
                continue  # `text_of` raises where the column is needed
        elif isinstance(value, bool | int | list | dict) or (isinstance(value, float) and not math.isnan(value)):
            found[str(column)] = json.dumps(value, ensure_ascii=False, default=str)
        elif not _is_null(value):
            found[str(column)] = str(value)
    return found


def _is_null(value: Any) -> bool:
    """Whether there is no value: a null, or a NaN, which is how a null of numbers is often written."""
    return value is None or (isinstance(value, float) and math.isnan(value))
