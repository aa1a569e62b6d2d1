"""Splits the documents of files into training and validation text, in batches to tokenize. Knows no tokens."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chainrule.corpus.options import CorpusOptions
from chainrule.corpus.read import Piece, read_documents
from chainrule.corpus.splitmix import uniform
from chainrule.storage.records import Log, Skipped, log_once, no_log
from chainrule.storage.remote import is_remote, remote_state, without_secrets

BATCH = 1 << 20  # characters that are tokenized together
SLICE = 1 << 16  # characters of a document, the unit of `sample`


@dataclass(frozen=True)
class Part:
    """Text of a document, and the split it belongs to."""

    piece: Piece
    validates: bool


class Documents:
    """The documents of `files`, read as often as needed, as the options say.

    documents, bytes (of UTF-8) and skipped count what the latest reading has read. `log`: as in `read_documents`.
    """

    def __init__(self, files: Sequence[str], options: CorpusOptions, log: Log = no_log) -> None:
        self.files, self.options, self.log = files, options, log_once(log)
        self.tail = tail(self.pieces(), options.validation)

    def pieces(self) -> Iterator[Piece]:
        self.documents = self.bytes = 0
        self._skipped = Skipped()
        field, encoding = self.options.field, self.options.encoding
        skipped = self._skipped if self.options.on_error == "skip" else None
        for file in self.files:
            for piece in read_documents(file, field=field, encoding=encoding, skipped=skipped, log=self.log):
                self.documents += piece.begins
                self.bytes += len(piece.text) if piece.text.isascii() else len(piece.text.encode())
                yield piece

    @property
    def skipped(self) -> int:
        return self._skipped.count

    def sample(self, limit: int) -> Iterator[str]:
        """A random sample of the training text, spread over all of it: about `limit` bytes, or all there is."""
        share = limit / max(1, sum(_text_bytes(file) for file in self.files))
        texts = (part.piece.text for part in self.parts() if not part.validates)
        slices = (text[start : start + SLICE] for text in texts for start in range(0, len(text), SLICE))
        return (text for number, text in enumerate(slices) if uniform(number) < share)

    def parts(self) -> Iterator[Part]:
        return assign(self.pieces(), self.options.validation, self.tail)


def _text_bytes(file: str) -> int:
    """Roughly the bytes of text in a file: compressed files hold about four times their size."""
    size = remote_state(file)["bytes"] if is_remote(file) else Path(file).stat().st_size
    return int(size) * (4 if without_secrets(file).endswith((".gz", ".parquet")) else 1)


def tail(pieces: Iterable[Piece], validation: float) -> int | None:
    """How many characters come before the tail that is the validation split; None where it is whole documents.

    It is whole documents where `validation` times their number is at least 10; only as many documents as that are read.
    """
    if validation == 0:
        return None
    documents = characters = 0
    for piece in pieces:
        documents += piece.begins
        if validation * documents >= 10:
            return None
        characters += len(piece.text)
    return math.floor(characters * (1 - validation))


def assign(pieces: Iterable[Piece], validation: float, tail: int | None) -> Iterator[Part]:
    """Each piece with its split. Where the tail begins, a piece is cut in two, and a document begins."""
    document, characters, in_tail = -1, 0, False
    for piece in pieces:
        document += piece.begins
        if tail is None:
            yield Part(piece, uniform(document) < validation)
            continue
        before, after = _halves(piece, min(max(tail - characters, 0), len(piece.text)))
        characters += len(piece.text)
        if before.text:
            yield Part(before, False)
        if after.text:
            yield Part(replace(after, begins=after.begins or not in_tail), True)
            in_tail = True


def _halves(piece: Piece, index: int) -> tuple[Piece, Piece]:
    begins = piece.begins and index == 0
    after = replace(piece, text=piece.text[index:], begins=begins, line=piece.line_at(index))
    return replace(piece, text=piece.text[:index]), after


def recut(parts: Iterable[Part], cut: Callable[[str], int]) -> Iterator[Part]:
    """The same text, cut only where that changes no token: at the index that `cut` gives for a text, 0 for nowhere."""
    pending: list[Part] = []
    for part in parts:
        if part.piece.begins and pending:
            yield _joined(pending)
            pending = []
        elif pending:
            before, after = _halves(pending[-1].piece, cut(pending[-1].piece.text))
            if before.text:
                yield _joined([*pending[:-1], replace(part, piece=before)])
                pending = [replace(part, piece=after)] if after.text else []
        pending.append(part)
    if pending:
        yield _joined(pending)


def _joined(parts: Sequence[Part]) -> Part:
    first = parts[0]
    return replace(first, piece=replace(first.piece, text="".join(part.piece.text for part in parts)))


def batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """The parts in lists of about BATCH characters."""
    batch: list[Part] = []
    characters = 0
    for part in parts:
        batch.append(part)
        characters += len(part.piece.text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
