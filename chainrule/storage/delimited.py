"""Rows of .csv and .tsv files: separator, quotation marks, columns. Knows lines of text, not bytes or encodings."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from chainrule.errors import DataError
from chainrule.storage.columns import Record, check_distinct, missing_column
from chainrule.storage.lines import Lines, undecodable

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE = 50  # rows from which the separator is guessed
_LONGEST = 2**31 - 1  # characters of a field; csv's own limit is 131,072


def separator_of(head: str, columns: int | None) -> str:
    """What separates the columns of a .csv that begins with `head`: a comma, unless only another gives rows alike.

    Rows are alike that have as many columns as the first, at least two; or `columns`, where there is no header.
    """
    alike = {mark: _share_alike(head, mark, columns) for mark in SEPARATORS}
    best = max(alike, key=alike.__getitem__)
    return "," if alike[","] >= 0.5 or alike[best] < 0.5 else best


def _share_alike(head: str, separator: str, columns: int | None) -> float:
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    rows = [row for row in islice(reader, _SAMPLE) if any(cell.strip() for cell in row)]
    if len(rows) > 1 and not head.endswith(("\n", "\r")):
        del rows[-1]  # the end of it may not be in `head`
    if not rows or (columns or len(rows[0])) < 2:
        return 0.0
    columns = columns or len(rows.pop(0))
    return sum(len(row) == columns for row in rows) / len(rows) if rows else 1.0


def is_quoted(lines: Iterable[bytes]) -> bool:
    """Whether a .tsv has quoted fields, as spreadsheets, pandas and we write them; else a quotation mark is text.

    It has, if every quotation mark in it begins a field, ends one, or is doubled within one, and a row of several
    lines has as many columns as the first row.
    """
    found, inside, several = False, False, False
    tabs, width = 0, None  # of this row, and of the first
    for line in lines:
        if not inside and width is not None and b'"' not in line:
            continue
        texts = line.rstrip(b"\r\n").split(b'"')  # alternately outside and inside of quotation marks
        last = len(texts) - 1
        for index in range(inside, last + 1, 2):
            text = texts[index]
            begins, ends = text[:1] in (b"", b"\t"), text[-1:] in (b"", b"\t")
            if (index > 0 and not begins) or (index < last and not ends):
                return False
            tabs += text.count(b"\t")
        found, inside = found or last > 0, inside ^ (last % 2 == 1)
        if inside:
            several = True
            continue
        if width is None:
            width = tabs if any(texts) or last else None
        elif several and tabs != width:
            return False
        tabs, several = 0, False
    return found and not inside


def table_rows(
    lines: Lines, separator: str, quoted: bool, columns: Sequence[str] | None, wanted: str | None
) -> Iterator[Record | DataError]:
    """The rows of a table, each with the line where it begins, by the names in its header, or in `columns` if it has
    none; in place of one that cannot be read the error. Blank lines are left out.

    Raises DataError for a name that occurs twice, and where `wanted` is none of them.
    """
    csv.field_size_limit(_LONGEST)
    how = {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, delimiter=separator, **how)
    if columns is not None:
        check_distinct(lines.path, columns)
    while True:
        line = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield DataError(f"{lines.path}:{line}: not a row of a table ({error}): correct it")
            continue
        if (bad := lines.take_bad()) is not None:
            yield undecodable(lines.path, lines.encoding, bad)
        elif columns is None:
            if len(row) > 1 or any(cell.strip() for cell in row):
                columns = row
                check_distinct(f"{lines.path}:{line}", columns)
                if wanted is not None and wanted not in columns:
                    raise missing_column(lines.path, wanted, columns)
        elif row and len(row) != len(columns):
            yield DataError(f"{lines.path}:{line}: wanted {len(columns)} columns, got {len(row)}: correct it")
        elif row:
            yield Record(dict(zip(columns, row, strict=True)), lines.path, line, lines.encoding)
