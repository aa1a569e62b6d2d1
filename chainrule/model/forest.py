"""Sequences side by side in one row, common beginnings once: what training packs. Knows tokens and shapes, no model.

Each token attends to its own sequence alone, up to itself: for sequences that have nothing in common the mask is block
diagonal. Shapes: S sequences, T tokens of the row, G key-value heads, K head width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine

Tokens = Sequence[int] | NDArray[np.integer]


def common_beginning(one: Tokens, other: Tokens) -> int:
    """How many tokens both begin with."""
    one, other = np.asarray(one), np.asarray(other)
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


class Forest:
    """A row of sequences, for a model in place of a cache: it keeps nothing, so that gradients flow through it.

    `tokens` (1, T) is the row: the sequences as trees, each in preorder, so that the descendants of the token in column
    s are the columns after it up to `ends[s]`. `columns[i]` are those of sequence i.
    """

    def __init__(self, sequences: Sequence[Tokens], device: torch.device, original_context: int | None = None) -> None:
        """Sequences of at least one token each; of the tokens that some begin with in common the row has one copy.
        Sequences longer than the original context, whose rotations are others, have theirs in common with one another
        alone."""
        texts = [np.asarray(sequence, np.int64) for sequence in sequences]
        longer = [original_context is not None and len(text) > original_context for text in texts]
        order = sorted(range(len(texts)), key=lambda index: (longer[index], texts[index].astype(">i8").tobytes()))
        size, before, shared = 0, order[0], []
        for index in order:
            alike = longer[before] == longer[index] and index != order[0]
            shared.append(common_beginning(texts[before], texts[index]) if alike else 0)
            size, before = size + len(texts[index]) - shared[-1], index
        tokens, depths, ends = np.empty(size, np.int64), np.empty(size, np.int64), np.full(size, size)
        lengths = np.empty(size, np.int64)
        self.columns: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(texts)
        path, end = np.empty(0, np.int64), 0
        for index, common in zip(order, shared, strict=True):
            text = texts[index]
            start, end = end, end + len(text) - common
            tokens[start:end], depths[start:end] = text[common:], np.arange(common, len(text))
            lengths[start:end] = len(text)
            ends[path[common:]] = start
            path = np.concatenate((path[:common], np.arange(start, end)))
            self.columns[index] = path
        self.tokens, self.depths, self.ends, self._lengths = (
            machine.to_device(torch.from_numpy(array), device) for array in (tokens[None], depths, ends, lengths)
        )
        self.length = 0  # of what came before: nothing
        self._longest = max(map(len, texts))
        self._chain = bool((ends == size).all())

    # What the model asks of a cache.

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the row, (1, G, T, K) each: all that there are."""
        return key, value

    def length_after(self, T: int) -> int:
        """How many positions the longest sequence has."""
        return self._longest

    def positions(self, T: int) -> Tensor:
        """(1, T) the position of each token in its own sequence."""
        return self.depths[None]

    def sequence_lengths(self, T: int) -> Tensor:
        """(1, T): how many tokens a sequence of each token has."""
        return self._lengths[None]

    def mask(self, T: int, window: int | None = None) -> Tensor | None:
        """(1, 1, T, T): True for what a token attends to, its sequence up to itself, at most `window` tokens in all.
        None where the causal mask is enough."""
        narrow = window is not None and self._longest > window
        if self._chain and not narrow:
            return None
        columns = torch.arange(T, device=self.ends.device)
        mask = (columns <= columns[:, None]) & (columns[:, None] < self.ends)
        if window is not None and narrow:
            mask = mask & (self.depths[:, None] - self.depths < window)
        return mask[None, None]
