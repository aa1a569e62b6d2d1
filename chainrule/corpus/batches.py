"""Tokens to training examples, as a function of (seed, step) alone. Knows no model and no process group.

Shapes: B examples, T the context. An example (T + 1) is T tokens and the one after them. It may span
documents (footnote 5), and begins anywhere or at the beginning of a document.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chainrule.corpus.shards import Split
from chainrule.corpus.splitmix import splitmix64
from chainrule.errors import DataError

Words = NDArray[np.uint64]
ROUNDS = 6  # of the Feistel network; 4 with random functions are already a pseudo-random permutation


class Batches:
    """Examples of a split. Each pass reads all consecutive windows, in an order and from an offset of its own.

    `align_documents`: a pass has one window per document instead, which starts with the document's BOS token; the rest
    of a longer document is not read. `windows` is the number of examples a pass. No order is stored: each example's
    position is computed when it is read. Raises DataError for a split shorter than a window.
    """

    def __init__(self, split: Split, context: int, seed: int, *, align_documents: bool = False) -> None:
        if len(split) < context + 1:
            raise DataError(
                f"wanted at least {context + 1} tokens, one window of --context {context}, got {len(split)}:"
                " give more text, or lower --context"
            )
        self.split, self.context, self.seed = split, context, seed
        self._documents = split.documents(context + 1) if align_documents else None
        # One less than fit, so that the windows' offset can differ from pass to pass.
        self.windows = max(1, (len(split) - 1) // context - 1) if self._documents is None else len(self._documents)

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
        """Of the `batch_size` examples of `step` (from 0) those of process `rank` of `world`, (their number, T + 1)."""
        numbers = step * batch_size + np.arange(batch_size)[share(batch_size, rank, world)]
        examples = np.empty((len(numbers), self.context + 1), np.int64)
        for example, start in zip(examples, self._starts(numbers), strict=True):
            example[:] = self.split.read(start, start + self.context + 1)
        return examples

    def _starts(self, numbers: NDArray[np.int64]) -> list[int]:
        """Where examples begin; `numbers` (N,) count examples since the first step."""
        passes, indices = (part.astype(np.uint64) for part in np.divmod(numbers, self.windows))
        keys = splitmix64(splitmix64(np.array([self.seed % 2**64], np.uint64)) + passes)
        if self._documents is not None:
            return self._documents[permuted(indices, self.windows, keys)].tolist()
        offsets = splitmix64(keys) % np.uint64(min(self.context, len(self.split) - self.windows * self.context))
        windows = permuted(indices, self.windows, keys)
        starts: list[int] = (offsets + windows * np.uint64(self.context)).tolist()
        return starts

    def passes(self, step: int, batch_size: int) -> float:
        """How many times the split has been read when `step` (from 0) is done."""
        return (step + 1) * batch_size / self.windows


def share(count: int, rank: int, world: int) -> slice:
    """Which of `count` examples process `rank` of `world` takes: consecutive ones, and no two processes the same."""
    return slice(count * rank // world, count * (rank + 1) // world)


def permuted(indices: Words, size: int, keys: Words) -> Words:
    """Each index in [0, size) under the permutation that its key determines; indices and keys (N,).

    A Feistel network on the next even number of bits (Luby and Rackoff, 1988), walked until it comes back under
    `size` (Black and Rogaway, 2002): no table, so it takes no memory whatever the size of the corpus.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    found, outside = indices.copy(), np.ones(len(indices), bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & low
        for number in range(1, ROUNDS + 1):
            left, right = right, left ^ splitmix64(splitmix64(keys[outside] + np.uint64(number)) + right) & low
        found[outside] = left << half | right
        outside = found >= size
    return found


def validation_windows(split: Split, context: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Consecutive windows over the whole split, (B, T + 1): each token but the first is predicted once.

    B is at most `batch_size`; the last may be one shorter window, (1, fewer). Raises DataError for fewer than 2 tokens.
    """
    if len(split) < 2:
        raise DataError(f"wanted at least 2 tokens to validate on, got {len(split)}: raise --validation")
    windows, rest = divmod(len(split) - 1, context)
    for first in range(0, windows, batch_size):
        starts = [window * context for window in range(first, min(first + batch_size, windows))]
        yield np.stack([split.read(start, start + context + 1) for start in starts])
    if rest:
        yield split.read(windows * context, len(split))[None]
