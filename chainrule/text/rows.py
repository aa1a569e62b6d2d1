"""The rows of a table, line by line: csv, tsv, jsonl, parquet, plain lines. Knows columns, not what they are for."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

# Called with what is wrong with a row, which is then left out; where there is none, the error is raised.
OnSkip = Callable[[ValueError], None] | None
Row = tuple[int, dict[str, Any]]  # the line where it begins, from 1, and column -> value, as the file has it


def undecodable(path: str, encoding: str, offset: int) -> ValueError:
    return ValueError(f"{path}: byte {offset} is not {encoding}: name its encoding, or skip what cannot be read")


def report(error: ValueError, on_skip: OnSkip) -> None:
    if on_skip is None:
        raise error
    on_skip(error)


class Lines:
    """The lines of a file, decoded, ends included. `bad`: the first byte that did not decode since it was last None."""

    def __init__(self, file: BinaryIO, path: str, encoding: str) -> None:
        if "\n".encode(encoding) != b"\n":
            raise ValueError(f"{path}: rows in {encoding} cannot be told apart by lines: convert the file to utf-8")
        self.file, self.encoding = file, encoding
        self.number = 0
        self.bad: int | None = None

    def __iter__(self) -> Iterator[str]:
        offset = 0
        for line in self.file:
            self.number += 1
            if self.number == 1 and self.encoding == "utf-8" and line.startswith(codecs.BOM_UTF8):
                offset = len(codecs.BOM_UTF8)
                line = line[offset:]
            try:
                text = line.decode(self.encoding)
            except UnicodeDecodeError as error:
                self.bad = offset + error.start if self.bad is None else self.bad
                text = line.decode(self.encoding, "replace")
            yield text
            offset += len(line)

    def take_bad(self) -> int | None:
        bad, self.bad = self.bad, None
        return bad


def missing(path: str, wanted: str, columns: Sequence[str]) -> ValueError:
    return ValueError(f"{path}: no {wanted!r} there, only {', '.join(map(repr, columns))}: name one of these")


def text_rows(lines: Lines, path: str, on_skip: OnSkip) -> Iterator[Row]:
    for line in lines:
        if (bad := lines.take_bad()) is not None:
            report(undecodable(path, lines.encoding, bad), on_skip)
        elif text := line.rstrip("\r\n"):
            yield lines.number, {"text": text}


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
            report(ValueError(f"{path}:{lines.number}: not JSON ({error}): correct the line"), on_skip)
            continue
        if isinstance(row, dict):
            yield lines.number, row
        else:
            report(ValueError(f"{path}:{lines.number}: wanted a JSON object, got {line.strip()[:40]}"), on_skip)


def table_rows(
    lines: Lines, path: str, tabs: bool, columns: Sequence[str] | None, wanted: str | None, on_skip: OnSkip
) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than csv's 131,072 characters
    # A .tsv has no quoting: there a quotation mark is text.
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines, strict=True)
    while True:
        line = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(ValueError(f"{path}:{line}: not a row of a table ({error}): correct it"), on_skip)
            continue
        if (bad := lines.take_bad()) is not None:
            report(undecodable(path, lines.encoding, bad), on_skip)
        elif columns is None:
            columns = row
            if wanted is not None and wanted not in columns:
                raise missing(path, wanted, columns)
        elif row and len(row) != len(columns):
            report(ValueError(f"{path}:{line}: wanted {len(columns)} columns, got {len(row)}: correct it"), on_skip)
        elif row:
            yield line, dict(zip(columns, row, strict=True))


def parquet_rows(path: str, wanted: str | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            if wanted is not None and wanted not in file.schema_arrow.names:
                raise missing(path, wanted, file.schema_arrow.names)
            line = 0
            for batch in file.iter_batches(batch_size=256, columns=None if wanted is None else [wanted]):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a whole parquet file ({reason}): fetch it again") from None


def strings(row: dict[str, Any]) -> dict[str, str]:
    """The row with each value as a string, numbers and the like as JSON; a null is left out."""
    return {str(column): _string(value) for column, value in row.items() if value is not None}


def _string(value: Any) -> str:
    if isinstance(value, (bool, int, float, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
