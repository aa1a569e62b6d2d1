"""Rows of csv, tsv, jsonl, parquet and txt files, each with its file and line, and documents made of them.
Knows files and columns, not what a column is for."""

import codecs
import glob
import gzip
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path
from typing import Any, BinaryIO

from chainrule.errors import ChainruleError, DataError
from chainrule.storage.delimited import SEPARATORS, is_quoted, separator_of, table_rows
from chainrule.storage.lines import (
    BLOCK,
    HEAD,
    Lines,
    UnusableFileError,
    checked_encoding,
    encoding_of,
    peeked,
    undecodable,
)
from chainrule.storage.rows import OnSkip, Row, json_rows, parquet_rows, report, strings, text_of, text_rows

Say = Callable[[str], None]  # called with a line for a person

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_NAMED = 3  # hidden files that are named, of those left out


def silent(line: str) -> None:
    """A Say that nobody hears."""


def once(say: Say) -> Say:
    """`say`, but for lines that were said before: a file may be read several times."""
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return say_once


@dataclass(frozen=True)
class Record:
    """A row: column -> its value as a string. `line`: where it begins in `source`, from 1 (of parquet: the row).

    `values`: the same row as the file has it, with its nulls, numbers and lists. `encoding`: of bytes among them.
    """

    fields: dict[str, str]
    source: str
    line: int
    values: dict[str, Any] = field(default_factory=dict, compare=False)
    encoding: str = field(default="utf-8", compare=False)

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}"

    def text(self, column: str) -> str:
        """The column's text; DataError, with file and line, where it is missing, null, or no text."""
        return text_of(self.values, column, self.where, self.encoding)


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
    suffix = splitext(path.removesuffix(".gz"))[1].lower()  # noqa: PTH122 (asked of every row: a Path takes long)
    if suffix == ".json":
        raise DataError(f"{path}: wanted one JSON value a line, as .jsonl: rename the file, or convert it")
    return suffix if suffix in KINDS else ".txt"


def find_files(inputs: Sequence[str], say: Say = silent) -> list[str]:
    """The files that `inputs` name: files, folders (whole, sorted), globs; "-" is standard input.

    Files and folders whose names begin with a dot are left out of folders and globs, and their number is said.
    """
    found: list[str] = []
    for name in inputs:
        if name == "-" or Path(name).is_file():
            found.append(name)
            continue
        if Path(name).is_dir():
            files = [path for path in _files(sorted(Path(name).rglob("*"))) if _has_text(path)]
            hidden = [path for path in files if _is_hidden(Path(path).relative_to(name))]
            nothing = f"{name}: wanted text in this folder ({' '.join(KINDS)}), found none"
        else:
            files = _files(map(Path, sorted(glob.glob(name, recursive=True, include_hidden=True))))  # noqa: PTH207
            hidden = sorted(set(files) - set(_files(map(Path, glob.glob(name, recursive=True)))))  # noqa: PTH207
            nothing = f"{name}: no such file, folder or pattern: check the name"
        seen = [path for path in files if path not in set(hidden)]
        left_out = (
            f"{len(hidden)} hidden files left out ({', '.join([*hidden[:_NAMED], *['…'][: len(hidden) - _NAMED]])})"
        )
        if not seen:
            raise DataError(nothing + (f" but {left_out}: name them one by one if meant" if hidden else ""))
        if hidden:
            say(f"{name}: {left_out}")
        found += seen
    if not found:
        raise DataError("wanted files to read, got none: name some")
    return found


def _files(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths if path.is_file()]


def _has_text(path: str) -> bool:
    return path.removesuffix(".gz").lower().endswith(KINDS)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb", buffering=HEAD) as file:
            yield file  # type: ignore[misc]  # GzipFile reads as BinaryIO does
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check the name") from None


def _rows(
    path: str, encoding: str, columns: Sequence[str] | None, wanted: str | None, on_skip: OnSkip, say: Say
) -> Iterator[Row]:
    form = kind(path)
    if form == ".parquet":
        yield from parquet_rows(path, wanted)
        return
    try:
        quoted = form == ".csv" or (form == ".tsv" and _is_quoted(path, encoding))
        with _opened(path) as file:
            lines = Lines(file, path, encoding, any_end=form in (".csv", ".tsv"))
            match form:
                case ".jsonl" | ".ndjson":
                    yield from json_rows(lines, path, on_skip)
                case ".csv" | ".tsv":
                    separator = "\t"
                    if (
                        form == ".csv"
                        and (separator := separator_of(lines.head, len(columns) if columns else None)) != ","
                    ):
                        say(f"{path}: its columns are separated by {SEPARATORS[separator]}")
                    yield from table_rows(lines, path, separator, quoted, columns, wanted, on_skip)
                case _:
                    yield from text_rows(lines, path, on_skip)
            if lines.number == 0:
                raise _empty(path)
    except UnusableFileError as error:
        report(error, on_skip)


def _is_quoted(path: str, encoding: str) -> bool:
    """Whether a .tsv has quoted fields; what can be read only once has none."""
    if not Path(path).is_file():
        return False
    with _opened(path) as file:
        return is_quoted(Lines(file, path, encoding, any_end=True).raw())


def _empty(path: str) -> DataError:
    return UnusableFileError(f"{path}: wanted text, the file is empty: leave it out")


def read_records(
    path: str,
    *,
    encoding: str = "utf-8",
    columns: Sequence[str] | None = None,
    on_skip: OnSkip = None,
    say: Say = silent,
) -> Iterator[Record]:
    """The rows of a file, all columns as strings; a row of a .txt file, or of standard input ("-"), is a line: "text".

    A byte-order mark tells the encoding, whatever `encoding` is. columns: the names in a csv or tsv file that has no
    header. `say` is told of a separator that is no comma. Raises DataError, with file and line or byte, for what
    cannot be read; a row that cannot is given to `on_skip`, where there is one, and left out.
    """
    encoding = checked_encoding(encoding)
    for line, values in _rows(path, encoding, columns, None, on_skip, say):
        yield Record(strings(values, encoding), path, line, values, encoding)


def read_documents(
    path: str, *, field: str = "text", encoding: str = "utf-8", on_skip: OnSkip = None, say: Say = silent
) -> Iterator[Piece]:
    """The documents of a file, one a row, of its column `field`; a .txt file is one document, in pieces of 1 MB.

    Rows whose text is empty are left out. Errors, and what is said, are as in `read_records`.
    """
    encoding = checked_encoding(encoding)
    if kind(path) == ".txt":
        yield from _text_pieces(path, encoding, on_skip)
        return
    for line, values in _rows(path, encoding, None, field, on_skip, say):
        text = values.get(field)
        if not isinstance(text, str):
            try:
                text = text_of(values, field, f"{path}:{line}", encoding)
            except ChainruleError as error:
                report(error, on_skip)
                continue
        if text:
            yield Piece(text, True, path, line)


def _text_pieces(path: str, encoding: str, on_skip: OnSkip) -> Iterator[Piece]:
    if on_skip is not None and path != "-":
        try:  # the whole file before its first piece: a document is skipped whole
            for _ in _decoded(path, encoding):
                pass
        except ChainruleError as error:
            on_skip(error)
            return
    line, begins = 1, True
    for text in _decoded(path, encoding):
        yield Piece(text, begins, path, line)
        line, begins = line + text.count("\n"), False


def _decoded(path: str, encoding: str) -> Iterator[str]:
    empty = True
    with _opened(path) as opened:
        file, head = peeked(opened)
        encoding, offset = encoding_of(head, path, encoding)
        file.read(offset)
        decoder = codecs.getincrementaldecoder(encoding)()
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


def read_texts(
    paths: Sequence[str],
    *,
    field: str = "text",
    encoding: str = "utf-8",
    on_skip: OnSkip = None,
    say: Say = silent,
) -> Iterator[str]:
    """The documents of some files, each whole; errors are as in `read_documents`."""
    held: list[str] = []
    for path in paths:
        for piece in read_documents(path, field=field, encoding=encoding, on_skip=on_skip, say=say):
            if piece.begins and held:
                yield "".join(held)
                held = []
            held.append(piece.text)
    if held:
        yield "".join(held)
