"""Keys and values of what a model has read, so that it reads nothing twice. Knows shapes, not models.

Shapes: L layers, B sequences, T new positions, S positions held, G key-value heads, K head width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def positions(past: int, T: int, padding: Tensor | None, device: torch.device) -> Tensor:
    """(1 or B, T) positions of T tokens after `past` columns; padding stands at 0, where nobody looks."""
    columns = torch.arange(past, past + T, device=device)
    return columns[None] if padding is None else (columns - padding[:, None]).clamp(min=0)


def causal_mask(past: int, T: int, padding: Tensor | None, window: int | None, device: torch.device) -> Tensor:
    """(1 or B, 1, T, S): True for the position itself and what came before, at most `window` positions in all."""
    held = torch.arange(past + T, device=device)
    back = held[past:, None] - held  # (T, S): how far back a held position lies
    mask = back >= 0 if window is None else (back >= 0) & (back < window)
    if padding is not None:
        # A padded position looks at itself: a row of the softmax over nothing would be NaN.
        mask = mask & ((held >= padding[:, None])[:, None] | (back == 0))  # (B, T, S)
    return mask.view(-1, 1, T, past + T)


class Cache:
    """Holds up to `capacity` positions of B sequences; those shorter than the longest are padded on the left.

    `padding` (B,) counts each row's padded positions: they are never looked at, and positions count from the first
    real token, so a row's logits are those it has alone.
    """

    def __init__(
        self, layers: int, capacity: int, padding: Tensor, heads: int, head_width: int, dtype: torch.dtype
    ) -> None:
        B = len(padding)
        self.keys = torch.empty((layers, B, heads, capacity, head_width), dtype=dtype, device=padding.device)
        self.values = torch.empty_like(self.keys)
        self.padding = padding
        self.padded = bool(padding.any())
        self.length = 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, K) to a layer and return all it holds, (B, G, S, K); `length` is moved by the caller."""
        end = self.length + key.shape[2]
        assert end <= self.keys.shape[3], "more positions than the cache was made for"
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def reach(self, T: int) -> int:
        """How many positions the longest sequence has after T more."""
        return self.length + T

    def positions(self, T: int) -> Tensor:
        """(1 or B, T) positions of the next T tokens."""
        return positions(self.length, T, self.padding if self.padded else None, self.padding.device)

    def mask(self, T: int, window: int | None = None) -> Tensor | None:
        """(1 or B, 1, T, S): True where a new position may look; None where the plain causal mask is enough."""
        reaches = window is None or self.length + T <= window
        if not self.padded and reaches and (self.length == 0 or T == 1):
            return None
        return causal_mask(self.length, T, self.padding if self.padded else None, window, self.padding.device)

    def branch(self, rows: Tensor, capacity: int | None = None) -> "Cache":
        """A cache of its own for each of `rows` (indices into B, repeats welcome), with room for `capacity` positions.

        Columns that are padding in all of them are left out, so that the longest has as much of the context as alone.
        """
        layers, _, heads, held, head_width = self.keys.shape
        padding = self.padding[rows]
        first = int(padding.min()) if self.padded else 0
        other = Cache(layers, capacity or held, padding - first, heads, head_width, self.keys.dtype)
        other.length = self.length - first
        other.keys[:, :, :, : other.length] = self.keys[:, rows, :, first : self.length]
        other.values[:, :, :, : other.length] = self.values[:, rows, :, first : self.length]
        return other

    def keep(self, columns: NDArray[np.int64]) -> None:
        """Of what is held, keep these columns alone, which ascend."""
        self.length = len(columns)
        stay = int((columns == np.arange(self.length)).sum())  # those in front, before the first that moves
        moved = torch.from_numpy(columns[stay:]).to(self.padding.device)
        self.keys[:, :, :, stay : self.length] = self.keys[:, :, :, moved]
        self.values[:, :, :, stay : self.length] = self.values[:, :, :, moved]

    def put(self, row: int, other: "Cache", columns: NDArray[np.int64]) -> None:
        """Make `row` hold these columns of the first row of another cache; `length` is set by the caller."""
        first = int(self.padding[row])
        chosen = torch.from_numpy(columns).to(self.padding.device)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, row, :, :first] = 0  # looked at by nobody, but 0 times NaN is NaN
            mine[:, row, :, first : first + len(columns)] = theirs[:, 0][:, :, chosen]


class Tree:
    """Reads new tokens, each after another's path from the root, into a cache of one row: sequences that branch.

    What the cache holds is one path; the new tokens follow in preorder, so the token of column s is looked at from the
    columns up to `ends[s]`, (S,), where its descendants end. A new token has `depths`, (T,), tokens before it. The
    cache's own length stays.
    """

    def __init__(self, cache: Cache, depths: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        assert len(cache.padding) == 1 and not cache.padded, "a tree grows in a row of its own"
        self.cache, self.length = cache, cache.length
        self.deepest, self.chain = int(depths.max()), bool((ends == len(ends)).all())
        self.seen_by_all = int((ends[: self.length] == len(ends)).cumprod().sum())  # columns in front
        self.depths, self.ends = (torch.from_numpy(x).to(cache.padding.device) for x in (depths, ends))

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (1, G, T, K) to a layer and return all it holds, (1, G, S, K)."""
        return self.cache.extend(layer, key, value)

    def reach(self, T: int) -> int:
        """How many positions the longest sequence has."""
        return self.deepest + 1

    def positions(self, T: int) -> Tensor:
        """(1, T) positions of the tokens in the sequences they belong to."""
        return self.depths[None]

    def mask(self, T: int, window: int | None = None) -> Tensor | None:
        """(1, 1, T, M): where a token looks among the last M columns, at itself and its ancestors, at most `window` in
        all; it sees all before those. None where that is all before it."""
        narrow = window is not None and self.deepest >= window
        if self.chain and self.length == 0 and not narrow:
            return None
        columns = torch.arange(self.length + T, device=self.ends.device)
        tokens = columns[self.length :, None]
        if window is None or not narrow:
            some = columns[self.seen_by_all :]
            return ((some <= tokens) & (tokens < self.ends[self.seen_by_all :]))[None, None]
        depths = torch.cat((columns[: self.length], self.depths))  # what the cache holds is a path
        mask = (columns <= tokens) & (tokens < self.ends) & (self.depths[:, None] - depths < window)
        return mask[None, None]
