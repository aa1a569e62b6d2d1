"""Batches of text to tokens, BOS before each document, in this process or several. Knows no files of tokens."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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


def encode_all(
    batches: Iterable[list[Part]], tokenizer: Tokenizer, directory: Path, workers: int
) -> Iterator[tuple[Tokens, Tokens]]:
    """`encode` of each batch, in order, by `workers` processes that load the tokenizer from `directory`.

    Raises ChildProcessError when one of them is killed.
    """
    if workers == 1:
        yield from (encode(tokenizer, batch) for batch in batches)
        return
    # Not forked: the caller may have threads, whose locks a fork would copy.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    waiting: deque[Future[tuple[Tokens, Tokens]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(_encode, directory, batch))
            if len(waiting) > 2 * workers:  # bounds the memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ChainruleError(
            "a tokenizing process was killed (too little memory?): the same command goes on, try fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a new process: leave Ctrl-C to the parent, and exit when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@cache
def _loaded(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


def _encode(directory: Path, batch: list[Part]) -> tuple[Tokens, Tokens]:
    return encode(_loaded(directory), batch)
