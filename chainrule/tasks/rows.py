"""The rows of a task: read from a file, checked, and joined into one text. Knows columns, not what is learned."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from chainrule.errors import DataError
from chainrule.storage.columns import NO_TEXT, Record, missing_column, text_of
from chainrule.storage.records import Log, OnError, Skipped, format_of, read_records
from chainrule.storage.remote import without_secrets
from chainrule.tasks.prompt import Row, fill

_WRITE_ONE = "write one, or leave the row out"
Parsed = TypeVar("Parsed")


def read_rows(
    path: Path | str,
    parse: Callable[[Record], Parsed],
    *,
    wanted: str,
    needed: Sequence[str] = (),
    columns: Sequence[str] = (),
    encoding: str,
    on_error: OnError,
    log: Log,
) -> list[Parsed]:
    """What `parse` makes of each row of a file.

    Raises the DataError of `parse`, or of a row that cannot be read; with on_error="skip" such rows are left out, and
    `log` is called with their number. Raises DataError for a file without rows, which are `wanted`, and for a table
    without one of the `needed` columns. `columns`: the names in a table without a header.
    """
    found: list[Parsed] = []
    shown = without_secrets(str(path))
    skipped = Skipped()
    for record in read_records(str(path), encoding=encoding, columns=columns or None, log=log):
        if isinstance(record, Record) and format_of(record.source) not in (".jsonl", ".ndjson"):
            for column in needed:  # where one row of a table lacks a column, all do
                if column not in record.values:
                    raise missing_column(record.where, column, list(record.values))
        try:
            if isinstance(record, DataError):
                raise record
            found.append(parse(record))
        except DataError as error:
            if on_error == "stop":
                raise
            skipped.add(error)
    if not found:
        why = f" ({skipped.note})" if skipped.count else ""
        raise DataError(f"{shown}: wanted {wanted}, found none{why}: name another file")
    if skipped.count:
        log(f"{shown}: of {len(found) + skipped.count} rows {skipped.note}")
    return found


def checked_row(row: Mapping[str, Any] | str, text: Sequence[str], where: str = "row", cure: str = _WRITE_ONE) -> Row:
    """`Task.row` for the text columns `text`. `cure`: what the error says to do about a row without text."""
    if isinstance(row, str):
        if len(text) > 1:
            raise DataError(
                f"{where}: wanted the columns {', '.join(map(repr, text))}, got one text: give a mapping of columns"
            )
        row = {text[0]: row}
    texts = [text_of(row, column, where, cure=cure) for column in text]
    if not any(map(str.strip, texts)):
        raise DataError(f"{where}: wanted a text, {', '.join(map(repr, text))} is empty: {cure}")
    return (
        row if all(isinstance(row[column], str) for column in text) else {**row, **dict(zip(text, texts, strict=True))}
    )


def example_row(record: Record, text: Sequence[str]) -> Row:
    """The same for a row of a file, which errors name; a line of a .txt is the text of a single column."""
    if "text" not in text and format_of(record.source) == ".txt":
        return checked_row(record.values["text"], text, record.where, NO_TEXT)
    for column in text:
        if not isinstance(record.values.get(column), str):
            record.text(column)
    return checked_row(record.strings, text, record.where, NO_TEXT)


def joined_text(row: Row, text: Sequence[str], template: str | None) -> str:
    """What `Task.finetune_text` reads: the filled template, or the text columns joined by a newline."""
    return "\n".join(row[column] for column in text) if template is None else fill(template, row)
