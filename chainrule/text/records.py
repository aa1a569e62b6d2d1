"""Rows of csv, tsv, jsonl, parquet and txt files, each with its file and line, and documents made of them.
Knows files and columns, not what a column is for."""

import codecs
import glob
import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from chainrule.text.rows import (
    Lines,
    OnSkip,
    Row,
    json_rows,
    missing,
    parquet_rows,
    report,
    strings,
    table_rows,
    text_rows,
    undecodable,
)

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
BLOCK = 1 << 20  # bytes of a .txt file read at once


@dataclass(frozen=True)
class Record:
    """A row: column -> its value as a string. `line`: where it begins in `source`, from 1 (of parquet: the row).

    `values`: the same row as the file has it, numbers and lists too.
    """

    fields: dict[str, str]
    source: str
    line: int
    values: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Piece:
    """A document, or a part of it: `begins` is True for the first. `line`: where the piece begins in `source`."""

    text: str
    begins: bool
    source: str
    line: int

    def line_at(self, place: int) -> int:
        """The line of the file where the character at `place` in `text` stands; of a row, where the row begins."""
        return self.line + (self.text.count("\n", 0, place) if kind(self.source) == ".txt" else 0)


def kind(path: str) -> str:
    """The one of KINDS that a file's name says; .txt for standard input and for any other name."""
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix == ".json":
        raise ValueError(f"{path}: wanted one JSON value a line, as .jsonl: rename the file, or convert it")
    return suffix if suffix in KINDS else ".txt"


def find_files(inputs: Sequence[str]) -> list[str]:
    """The files that `inputs` name: files, folders (whole, sorted), globs; "-" is standard input."""
    found: list[str] = []
    for name in inputs:
        if name == "-" or Path(name).is_file():
            found.append(name)
        elif Path(name).is_dir():
            files = [str(path) for path in sorted(Path(name).rglob("*")) if path.is_file()]
            files = [path for path in files if path.removesuffix(".gz").lower().endswith(KINDS)]
            if not files:
                raise ValueError(f"{name}: wanted text in this folder ({' '.join(KINDS)}), found none")
            found += files
        else:
            matches = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())  # noqa: PTH207
            if not matches:
                raise ValueError(f"{name}: no such file, folder or pattern: check the name")
            found += matches
    if not found:
        raise ValueError("wanted files to read, got none: name some")
    return found


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file:
            yield file  # type: ignore[misc]  # GzipFile reads as BinaryIO does
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): check the name") from None


def _checked(encoding: str) -> str:
    try:
        "".encode(encoding)
        name = codecs.lookup(encoding).name
    except LookupError:
        raise ValueError(f"wanted the name of an encoding such as utf-8, got {encoding}: correct it") from None
    return "utf-8" if name == "utf-8-sig" else name  # the mark at the beginning is never text


def _rows(
    path: str, encoding: str, columns: Sequence[str] | None, wanted: str | None, on_skip: OnSkip
) -> Iterator[Row]:
    if kind(path) == ".parquet":
        yield from parquet_rows(path, wanted)
        return
    with _opened(path) as file:
        lines = Lines(file, path, encoding)
        match kind(path):
            case ".jsonl" | ".ndjson":
                yield from json_rows(lines, path, on_skip)
            case ".csv" | ".tsv":
                yield from table_rows(lines, path, kind(path) == ".tsv", columns, wanted, on_skip)
            case _:
                yield from text_rows(lines, path, on_skip)
        if lines.number == 0:
            report(_empty(path), on_skip)


def _empty(path: str) -> ValueError:
    return ValueError(f"{path}: wanted text, the file is empty: leave it out")


def read_records(
    path: str, *, encoding: str = "utf-8", columns: Sequence[str] | None = None, on_skip: OnSkip = None
) -> Iterator[Record]:
    """The rows of a file, all columns as strings; a row of a .txt file, or of standard input ("-"), is a line: "text".

    columns: the names in a csv or tsv file that has no header. Raises ValueError, with file and line or byte, for what
    cannot be read; a row that cannot is given to `on_skip`, where there is one, and left out.
    """
    for line, values in _rows(path, _checked(encoding), columns, None, on_skip):
        yield Record(strings(values), path, line, values)


def read_documents(
    path: str, *, field: str = "text", encoding: str = "utf-8", on_skip: OnSkip = None
) -> Iterator[Piece]:
    """The documents of a file, one a row, of its column `field`; a .txt file is one document, in pieces of 1 MB.

    Rows with no text are left out. Errors are as in `read_records`.
    """
    if kind(path) == ".txt":
        yield from _text_pieces(path, _checked(encoding), on_skip)
        return
    for line, values in _rows(path, _checked(encoding), None, field, on_skip):
        fields = strings(values)
        text = fields.get(field)
        if text is None:
            report(missing(f"{path}:{line}", field, list(fields)), on_skip)
        elif text:
            yield Piece(text, True, path, line)


def _text_pieces(path: str, encoding: str, on_skip: OnSkip) -> Iterator[Piece]:
    if on_skip is not None and path != "-":
        try:  # the whole file before its first piece: a document is skipped whole
            for _ in _decoded(path, encoding):
                pass
        except ValueError as error:
            on_skip(error)
            return
    line, begins = 1, True
    for text in _decoded(path, encoding):
        yield Piece(text, begins, path, line)
        line, begins = line + text.count("\n"), False


def _decoded(path: str, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    offset, empty = 0, True
    with _opened(path) as file:
        while True:
            block = file.read(BLOCK)
            offset += len(block)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:  # its object ends where the block does
                raise undecodable(path, encoding, offset - len(error.object) + error.start) from None
            if text:
                empty = False
                yield text
            if not block:
                break
    if empty:
        raise _empty(path)


def read_texts(paths: Sequence[str], *, field: str = "text", encoding: str = "utf-8") -> Iterator[str]:
    """The documents of some files, each whole; errors are as in `read_documents`."""
    held: list[str] = []
    for path in paths:
        for piece in read_documents(path, field=field, encoding=encoding):
            if piece.begins and held:
                yield "".join(held)
                held = []
            held.append(piece.text)
    if held:
        yield "".join(held)
