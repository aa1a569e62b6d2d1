"""Files of text, opened and decoded: lines, or blocks. Knows bytes and encodings, not what a line means."""

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from chainrule.errors import DataError
from chainrule.storage.remote import is_remote, opened_remote, without_secrets

HEAD = 1 << 16  # bytes looked at before a file is read, at most
BLOCK = 1 << 20  # bytes read at once, where lines cannot be split at the byte of a newline
MARKS = (  # byte-order marks; the longer of two that begin alike comes first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = {  # how files begin that are no text in any encoding
    b"GGUF\x02\x00": "a model (GGUF)",
    b"GGUF\x03\x00": "a model (GGUF)",
    b"%PDF": "a PDF; save its text as .txt",
    b"PK\x03\x04": "an archive or an office document (zip); unpack it, or save its text as .txt or .csv",
    b"PAR1\x15": "a table (parquet); name it .parquet",
}
_BAD = "\udcff"  # replaces a byte that did not decode: no decoder gives a lone surrogate


class UnusableFileError(DataError):
    """None of the file's rows can be read: skipping some of them is no help."""


class UndecodableError(DataError):
    """Bytes that are not in the encoding. `fact`: what is wrong, without the advice, for callers whose users name an
    encoding elsewhere."""

    def __init__(self, fact: str) -> None:
        self.fact = fact
        super().__init__(
            f"{fact}: name the file's encoding, as in --encoding cp1252, or skip what cannot be read with"
            " --on-error skip"
        )


def undecodable(path: str, encoding: str, offset: int) -> UndecodableError:
    return UndecodableError(f"{path}: byte {offset} is not {encoding}")


def checked_encoding(encoding: str) -> str:
    """An encoding's usual name. Raises DataError for what is no encoding of text."""
    try:
        "".encode(encoding)
        name = codecs.lookup(encoding).name
    except LookupError:
        raise DataError(f"wanted the name of an encoding such as utf-8, got {encoding}: correct it") from None
    # A mark at the beginning is never text, and is looked for in every file; without one the order is the usual.
    return {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(name, name)


def encoding_of(head: bytes, path: str, encoding: str) -> tuple[str, int]:
    """The encoding of a file that begins with `head`, and the length of its byte-order mark, which decides if there is
    one.

    `encoding`: as `checked_encoding` gave it. Raises UnusableFileError for what is no text, and what seems to
    be UTF-16 without a mark.
    """
    for start, what in _NO_TEXT.items():
        if head.startswith(start):
            raise UnusableFileError(f"{path}: wanted text, got {what}")
    for mark, marked in MARKS:
        if head.startswith(mark) and not (marked == "utf-32-le" and encoding.startswith("utf-16")):
            return marked, len(mark)
    if _one_byte_newline(encoding) and 4 * head.count(0) > len(head):
        likely = "utf-16-be" if head[0] == 0 else "utf-16-le"
        raise UnusableFileError(
            f"{path}: a quarter of its bytes are zero, as in {likely} without a byte-order mark: name its encoding, as"
            f" in --encoding {likely}, or leave the file out"
        )
    return encoding, 0


def _one_byte_newline(encoding: str) -> bool:
    return "\n".encode(encoding) == b"\n"


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file, here or by its URL, a .gz decompressed, or standard input ("-"). Raises DataError for what cannot be
    read, then or later."""
    if path == "-":
        yield sys.stdin.buffer
        return
    zipped = without_secrets(path).endswith(".gz")
    try:
        if is_remote(path):
            with opened_remote(path) as stream:
                yield cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if zipped else stream
            return
        with gzip.open(path) if zipped else Path(path).open("rb", buffering=HEAD) as file:
            yield file  # type: ignore[misc]  # GzipFile reads as BinaryIO does
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{without_secrets(path)}: not a whole gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check the name") from None


def empty_file(path: str) -> UnusableFileError:
    return UnusableFileError(f"{without_secrets(path)}: wanted text, the file is empty: leave it out")


def read_blocks(path: str, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file, BLOCK bytes at a time. Raises DataError for what does not decode, and for an empty file."""
    empty = True
    with opened(path) as file:
        lines = Lines(file, path, checked_encoding(encoding))
        bad: list[int] = []
        for text in lines.blocks(bad):
            if bad:
                raise undecodable(lines.path, lines.encoding, bad[0])
            if text:
                empty = False
                yield text
    if empty:
        raise empty_file(path)


def _peeked(file: BinaryIO) -> tuple[BinaryIO, bytes]:
    """The file, still at its beginning, and how it begins: HEAD bytes, or what is there at once."""
    buffered: Any = file if hasattr(file, "peek") else io.BufferedReader(cast(io.RawIOBase, file))
    return buffered, buffered.peek(HEAD)[:HEAD]


class Lines:
    """The lines of a file, decoded, line ends included; `number` counts them.

    A line ends with a newline; with `any_end`, and in a file without any newline, with a carriage return too.
    `encoding`: that of the byte-order mark, if there is one. `head`: how the file begins.
    """

    def __init__(self, file: BinaryIO, path: str, encoding: str, any_end: bool = False) -> None:
        file, head = _peeked(file)
        self.path, self.file, self.any_end = without_secrets(path), file, any_end
        self.encoding, self._offset = encoding_of(head, self.path, encoding)
        self.head = head[self._offset :].decode(self.encoding, "replace")
        self.by_bytes = _one_byte_newline(self.encoding) and ("\n" in self.head or "\r" not in self.head)
        self.number = 0
        self._bad: int | None = None
        file.read(self._offset)

    def __iter__(self) -> Iterator[str]:
        return self._by_bytes() if self.by_bytes else self._by_blocks()

    def raw(self) -> Iterator[bytes]:
        """The lines as bytes in which quotation marks, tabs and line ends are those of ASCII."""
        return iter(self.file) if self.by_bytes else (line.encode("utf-8", "replace") for line in self)

    def _by_bytes(self) -> Iterator[str]:
        offset = self._offset
        for whole in self.file:
            several = self.any_end and whole.find(b"\r", 0, len(whole) - 2) >= 0
            for line in whole.splitlines(keepends=True) if several else (whole,):
                self.number += 1
                try:
                    text = line.decode(self.encoding)
                except UnicodeDecodeError as error:
                    self._bad = offset + error.start if self._bad is None else self._bad
                    text = line.decode(self.encoding, "replace")
                yield text
                offset += len(line)

    def _by_blocks(self) -> Iterator[str]:
        """The same for encodings in which a newline is not one byte, and for lines that end with a carriage return."""
        universal = "" if self.any_end or "\n" not in self.head else "\n"
        rest, bad = "", list[int]()
        for text in self.blocks(bad):
            *lines, rest = io.StringIO(rest + text, newline=universal).readlines() or [""]
            yield from (self._numbered(line, bad) for line in lines)
        yield from (self._numbered(line, bad) for line in io.StringIO(rest, newline=universal))

    def _numbered(self, line: str, bad: list[int]) -> str:
        self.number += 1
        if count := line.count(_BAD):
            self._bad = bad[0] if self._bad is None else self._bad
            del bad[:count]
        return line

    def blocks(self, bad: list[int]) -> Iterator[str]:
        """The text, BLOCK bytes at a time, _BAD in it for each byte that does not decode, whose offset is appended to
        `bad`."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        offset = self._offset
        while True:
            block = self.file.read(BLOCK)
            offset, final, parts = offset + len(block), not block, list[str]()
            while True:
                try:
                    parts.append(decoder.decode(block, final))
                    break
                except UnicodeDecodeError as error:  # its object ends where the block does
                    bad.append(offset - len(error.object) + error.start)
                    parts += [error.object[: error.start].decode(self.encoding), _BAD]
                    block = error.object[error.end :]
                    decoder.reset()
            yield "".join(parts)
            if final:
                return

    def take_bad(self) -> int | None:
        """The offset of the first byte that did not decode since the last call; None where all did."""
        bad, self._bad = self._bad, None
        return bad
