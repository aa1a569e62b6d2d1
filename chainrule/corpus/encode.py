"""Batches of text to tokens, BOS before each document, here or in workers. Knows no files of tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from chainrule.corpus.documents import Part
from chainrule.errors import ChainruleError, DataError
from chainrule.tokens.tables import UnseenCharacterError
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Tokens:
    """Tokens of one split. `documents`: the positions of the documents' BOS tokens."""

    tokens: NDArray[np.unsignedinteger]
    documents: NDArray[np.int64]


def encode(tokenizer: Tokenizer, batch: Sequence[Part]) -> tuple[Tokens, Tokens]:
    """The training and the validation tokens of a batch; 2 bytes each where the vocabulary allows it."""
    try:
        ids = tokenizer.encode_batch([part.piece.text for part in batch])
    except ChainruleError as error:
        raise _located(error, tokenizer, batch) from None
    return _split(tokenizer, batch, ids, False), _split(tokenizer, batch, ids, True)


def token_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def _split(tokenizer: Tokenizer, batch: Sequence[Part], ids: Sequence[NDArray[np.uint32]], validates: bool) -> Tokens:
    dtype = token_type(tokenizer.vocabulary_size)
    bos = np.array([tokenizer.bos_id], np.uint32)
    arrays, starts, length = [np.zeros(0, np.uint32)], [], 0
    for part, tokens in zip(batch, ids, strict=True):
        if part.validates != validates:
            continue
        if part.piece.begins:
            starts.append(length)
            arrays.append(bos)
        arrays.append(tokens)
        length += part.piece.begins + len(tokens)
    return Tokens(np.concatenate(arrays, dtype=dtype, casting="unsafe"), np.array(starts, np.int64))


def _located(error: ChainruleError, tokenizer: Tokenizer, batch: Sequence[Part]) -> ChainruleError:
    """`error`, raised for a batch, with the file and the line it comes from."""
    for piece in (part.piece for part in batch):
        try:
            tokenizer.encode_batch([piece.text])
        except UnseenCharacterError as unseen:
            return DataError(f"{piece.source}:{piece.line_at(unseen.offset)}: {unseen.reason}")
        except ChainruleError as other:
            return DataError(f"{piece.source}:{piece.line}: {other}")
    return error


@dataclass(frozen=True)
class Encoding:
    """Makes, in a worker, the function from a batch to its tokens. `files`: those of the tokenizer, by name, so that a
    worker on another machine needs no disk in common with this one."""

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Encoding":
        with TemporaryDirectory() as folder:
            tokenizer.save(Path(folder))
            return cls({file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())})

    def tokenizer(self) -> Tokenizer:
        with TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return load_tokenizer(Path(folder))

    def __call__(self) -> Callable[[list[Part]], tuple[Tokens, Tokens]]:
        return partial(encode, self.tokenizer())


def pack(encoded: tuple[Tokens, Tokens]) -> bytes:
    """The tokens of a batch as bytes: for each split two lengths and the width of a token, then the numbers."""
    content = []
    for split in encoded:
        tokens = split.tokens.astype(split.tokens.dtype.newbyteorder("<"), copy=False)
        lengths = np.array([len(tokens), len(split.documents), tokens.itemsize], "<u8")
        content += [lengths.tobytes(), tokens.tobytes(), split.documents.astype("<i8").tobytes()]
    return b"".join(content)


def unpack(content: bytes) -> tuple[Tokens, Tokens]:
    """What `pack` was given."""
    found, start = [], 0
    for _ in range(2):
        tokens, documents, width = np.frombuffer(content, "<u8", 3, start).tolist()
        start += 24
        ids = np.frombuffer(content, f"<u{width}", tokens, start)
        start += tokens * width
        begins = np.frombuffer(content, "<i8", documents, start).astype(np.int64)
        start += documents * 8
        found.append(Tokens(ids, begins))
    return found[0], found[1]
