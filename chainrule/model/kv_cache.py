"""KV cache: keys and values of tokens that were already processed. Knows shapes, not models.

Shapes: L layers, B sequences, T new positions, S cached positions, G key-value heads, K head width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def causal_mask(past: int, T: int, window: int | None, device: torch.device) -> Tensor:
    """(1, 1, T, S): True for the position itself and what came before, at most `window` positions in all."""
    columns = torch.arange(past + T, device=device)
    back = columns[past:, None] - columns  # (T, S): how many positions before the query a key is
    mask = back >= 0 if window is None else (back >= 0) & (back < window)
    return mask[None, None]


class KVCache:
    """Up to `capacity` positions of some sequences that are equally long."""

    def __init__(
        self,
        layers: int,
        sequences: int,
        capacity: int,
        heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys = torch.empty((layers, sequences, heads, capacity, head_width), dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    @property
    def lengths(self) -> list[int]:
        """How many positions each sequence has."""
        return [self.length] * self.keys.shape[1]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, K) to a layer and return its keys and values, (B, G, S, K); the caller moves `length`."""
        end = self.length + key.shape[2]
        assert end <= self.keys.shape[3], "more positions than the cache has capacity for"
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def length_after(self, T: int) -> int:
        """How many positions a sequence has after T more."""
        return self.length + T

    def positions(self, T: int) -> Tensor:
        """(1, T) positions of the next T tokens."""
        return torch.arange(self.length, self.length + T, device=self.keys.device)[None]

    def sequence_lengths(self, T: int) -> Tensor:
        """(1, 1): how many tokens each sequence has with the next T."""
        return torch.full((1, 1), self.length + T, device=self.keys.device)

    def mask(self, T: int, window: int | None = None) -> Tensor | None:
        """(1, 1, T, S): True for what a new position attends to; None where the causal mask is enough."""
        reaches = window is None or self.length + T <= window
        if reaches and (self.length == 0 or T == 1):
            return None
        return causal_mask(self.length, T, window, self.keys.device)

    def keep(self, columns: NDArray[np.int64]) -> None:
        """Drop all columns but these, which ascend."""
        self.length = len(columns)
        stay = int((columns == np.arange(self.length)).sum())  # those before the first that moves
        moved = torch.from_numpy(columns[stay:]).to(self.keys.device)
        self.keys[:, :, :, stay : self.length] = self.keys[:, :, :, moved]
        self.values[:, :, :, stay : self.length] = self.values[:, :, :, moved]


class TreeCache:
    """Adds tokens that form a tree to a cache of one sequence, each attending to its ancestors: sequences that branch.

    What the cache has is one path from the root; the new tokens follow in preorder, so that the descendants of the
    token in column s are the columns up to `ends[s]`, (S,), and only these attend to it. The new tokens have `depths`,
    (T,), ancestors. The cache's own length does not change.
    """

    def __init__(
        self, cache: KVCache, depths: NDArray[np.int64], ends: NDArray[np.int64], length: int | None = None
    ) -> None:
        """`length`: of the sequences, where it is not that of the deepest path."""
        assert cache.keys.shape[1] == 1, "a tree has a cache of one sequence"
        self.cache, self.length = cache, cache.length
        self._sequence_length = length or int(depths.max()) + 1
        self.deepest, self.chain = int(depths.max()), bool((ends == len(ends)).all())
        self.shared = int((ends[: self.length] == len(ends)).cumprod().sum())  # columns in front that all attend to
        self.depths, self.ends = (torch.from_numpy(x).to(cache.keys.device) for x in (depths, ends))

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (1, G, T, K) to a layer and return all its keys and values, (1, G, S, K)."""
        return self.cache.extend(layer, key, value)

    def length_after(self, T: int) -> int:
        """How many positions the longest sequence has after the new tokens."""
        return self.deepest + 1

    def positions(self, T: int) -> Tensor:
        """(1, T) positions of the new tokens, each in its own sequence."""
        return self.depths[None]

    def sequence_lengths(self, T: int) -> Tensor:
        """(1, 1): how many tokens the sequences have, as far as it makes a difference."""
        return torch.full((1, 1), self._sequence_length, device=self.ends.device)

    def mask(self, T: int, window: int | None = None) -> Tensor | None:
        """(1, 1, T, M): True for the last M columns that a token attends to, itself and its ancestors, at most `window`
        in all; it attends to all columns before these. None where the causal mask is enough."""
        narrow = window is not None and self.deepest >= window
        if self.chain and self.length == 0 and not narrow:
            return None
        columns = torch.arange(self.length + T, device=self.ends.device)
        tokens = columns[self.length :, None]
        if window is None or not narrow:
            some = columns[self.shared :]
            return ((some <= tokens) & (tokens < self.ends[self.shared :]))[None, None]
        depths = torch.cat((columns[: self.length], self.depths))  # what the cache has is a path
        mask = (columns <= tokens) & (tokens < self.ends) & (self.depths[:, None] - depths < window)
        return mask[None, None]
