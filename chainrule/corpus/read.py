"""The documents of files: rows of a column, or whole .txt files. Knows text, not what of it validates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chainrule.errors import DataError
from chainrule.storage.lines import UnusableFileError, read_blocks
from chainrule.storage.records import Log, Skipped, format_of, no_log, read_records
from chainrule.storage.remote import without_secrets


@dataclass(slots=True)  # frozen ones take three times as long to make, one a row
class Piece:
    """A document, or a part of it: `begins` is True for the first. `line`: where it begins in
    `source`."""

    text: str
    begins: bool
    source: str
    line: int

    def line_at(self, index: int) -> int:
        """The line of the file that has the character `text[index]`; of a row, the line where the row begins."""
        return self.line + (self.text.count("\n", 0, index) if format_of(self.source) == ".txt" else 0)


def read_documents(
    path: str, *, field: str = "text", encoding: str = "utf-8", skipped: Skipped | None = None, log: Log = no_log
) -> Iterator[Piece]:
    """The documents of a file, one a row, of its column `field`; a .txt file is one document, in pieces of 1 MB.

    Rows whose text is empty are left out. Raises DataError, with file and line or byte, for what cannot be read;
    with `skipped` it is left out and counted there. `log` is called as by `read_records`.
    """
    if format_of(path) == ".txt":
        yield from _text_pieces(path, encoding, skipped)
        return
    try:
        for record in read_records(path, encoding=encoding, only=field, log=log):
            try:
                if isinstance(record, DataError):
                    raise record
                text = record.values.get(field)
                if not isinstance(text, str):
                    text = record.text(field)
            except DataError as error:
                _skip(error, skipped)
                continue
            if text:
                yield Piece(text, True, record.source, record.line)
    except UnusableFileError as error:
        _skip(error, skipped)


def _skip(error: DataError, skipped: Skipped | None) -> None:
    if skipped is None:
        raise error
    skipped.add(error)


def _text_pieces(path: str, encoding: str, skipped: Skipped | None) -> Iterator[Piece]:
    if skipped is not None and path != "-":
        try:  # the whole file before its first piece: a document is skipped whole
            for _ in read_blocks(path, encoding):
                pass
        except DataError as error:
            skipped.add(error)
            return
    line, begins, source = 1, True, without_secrets(path)
    for text in read_blocks(path, encoding):
        yield Piece(text, begins, source, line)
        line, begins = line + text.count("\n"), False


def read_texts(
    paths: Sequence[str],
    *,
    field: str = "text",
    encoding: str = "utf-8",
    skipped: Skipped | None = None,
    log: Log = no_log,
) -> Iterator[str]:
    """The documents of some files, each whole; errors are as in `read_documents`."""
    parts: list[str] = []  # of the document so far
    for path in paths:
        for piece in read_documents(path, field=field, encoding=encoding, skipped=skipped, log=log):
            if piece.begins and parts:
                yield "".join(parts)
                parts = []
            parts.append(piece.text)
    if parts:
        yield "".join(parts)
