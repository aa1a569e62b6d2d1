"""KV cache of a batch that sequences join and leave while it is decoded. Knows shapes, not models.

Shapes: L layers, B sequences, T new positions, S cached positions, G key-value heads, K head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chainrule.machine import to_device
from chainrule.model.forest import Forest
from chainrule.model.kv_cache import KVCache, TreeCache


class BatchCache:
    """Sequence b is row b, from column 0 on. Shorter sequences end before the longest; the mask hides what follows.

    Row and column capacity are grown by `reserve`; joining writes the new rows alone, and leaving moves one row.
    """

    def __init__(self, layers: int, heads: int, head_width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.empty((layers, 0, heads, 0, head_width), dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.length = 0  # of the longest sequence; the model adds the number of new tokens
        self._shorter: list[int] = []  # by how many tokens each sequence is shorter than the longest
        self._shorter_tensor: Tensor | None = None  # the same, (B,); None where all are equally long

    def __len__(self) -> int:
        return len(self._shorter)

    @property
    def lengths(self) -> list[int]:
        """How many positions each sequence has."""
        return [self.length - shorter for shorter in self._shorter]

    @property
    def capacity(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.keys.shape[1], self.keys.shape[3]

    def reserve(self, rows: int, columns: int) -> None:
        """Change the capacity; what is cached is copied."""
        B = len(self)
        assert rows >= B and columns >= self.length, "a capacity for what is cached"
        layers, _, heads, _, head_width = self.keys.shape
        # Zeros: a masked value is multiplied by 0, and 0 times NaN is NaN.
        keys, values = (self.keys.new_zeros((layers, rows, heads, columns, head_width)) for _ in range(2))
        for new, old in ((keys, self.keys), (values, self.values)):
            new[:, :B, :, : self.length] = old[:, :B, :, : self.length]
        self.keys, self.values = keys, values

    def join(self, count: int, other: KVCache, columns: Tensor) -> None:
        """Append `count` sequences, each with these columns of the only sequence in another cache."""
        B, T = len(self), len(columns)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, B : B + count, :, :T] = theirs[:, :1, :, columns]
        self._set_lengths([*self.lengths, *[T] * count])

    def leave(self, row: int) -> None:
        """Remove a sequence; the last one moves into its row."""
        lengths = self.lengths
        last = lengths.pop()
        if row < len(lengths):
            lengths[row] = last
            for mine in (self.keys, self.values):
                mine[:, row, :, :last] = mine[:, len(lengths), :, :last]
        self._set_lengths(lengths)

    def bucket(self, rows: int, columns: int, lengths: Tensor) -> "BucketCache":
        """Its first rows and columns, for a step whose shapes depend on these alone."""
        return BucketCache(self.keys[:, :rows, :, :columns], self.values[:, :rows, :, :columns], lengths)

    def _set_lengths(self, lengths: Sequence[int]) -> None:
        self.length = max(lengths, default=0)
        self._shorter = [self.length - length for length in lengths]
        shorter = to_device(torch.tensor(self._shorter), self.keys.device) if any(self._shorter) else None
        self._shorter_tensor = shorter
        self._rows = torch.arange(len(lengths), device=self.keys.device)

    # What the model asks of a cache.

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, K) to a layer and return its keys and values, (B, G, S, K); the caller moves `length`."""
        B, T = len(self), key.shape[2]
        end = self.length + T
        columns = None if self._shorter_tensor is None else self.length - self._shorter_tensor
        for mine, new in ((self.keys[layer], key), (self.values[layer], value)):
            if columns is None:
                mine[:B, :, self.length : end] = new
            else:
                assert T == 1, "sequences of different lengths grow by a token each"
                mine[self._rows, :, columns] = new[:, :, 0]
        return self.keys[layer, :B, :, :end], self.values[layer, :B, :, :end]

    def length_after(self, T: int) -> int:
        """How many positions the longest sequence has after T more."""
        return self.length + T

    def positions(self, T: int) -> Tensor:
        """(1 or B, T) positions of the next T tokens."""
        columns = torch.arange(self.length, self.length + T, device=self.keys.device)[None]
        return columns if self._shorter_tensor is None else columns - self._shorter_tensor[:, None]

    def sequence_lengths(self, T: int) -> Tensor:
        """(1 or B, T): how many tokens each sequence has, up to each of the next T."""
        return self.positions(T) + 1

    def mask(self, T: int, window: int | None = None) -> Tensor | None:
        """(1 or B, 1, T, S): True for what a new position attends to; None where that is all."""
        assert T == 1, "prompts are processed in a cache of their own"
        within = window is None or self.length < window
        if self._shorter_tensor is None and within:
            return None
        back = self.positions(T)[..., None] - torch.arange(self.length + T, device=self.keys.device)  # (1 or B, T, S)
        mask = back >= 0 if window is None else (back >= 0) & (back < window)
        return mask[:, None]


class BucketCache:
    """Rows and columns of a `BatchCache` for another token of each row, whatever the rows' lengths are.

    Row b has `lengths[b]` positions, (B,) on the device, where all that depends on them is computed: a new token is
    written in the column of that number, below the number of columns, and the mask hides the columns that follow. Who
    gives the lengths says so anew for the next token, to the `BatchCache` too.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: Tensor) -> None:
        """Keys and values are (L, B, G, S, K)."""
        self.keys, self.values, self.lengths = keys, values, lengths
        self.length = 0  # the model counts what it processes

    # What the model asks of a cache.

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, G, 1, K) into a layer and return its keys and values, (B, G, S, K)."""
        assert key.shape[2] == 1, "sequences of different lengths grow by a token each"
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        for mine, new in ((self.keys[layer], key), (self.values[layer], value)):
            mine[rows, :, self.lengths] = new[:, :, 0]
        return self.keys[layer], self.values[layer]

    def length_after(self, T: int) -> int:
        """How many positions a sequence has at most after the new token."""
        return self.keys.shape[3]

    def positions(self, T: int) -> Tensor:
        """(B, 1) positions of the next tokens."""
        return self.lengths[:, None]

    def sequence_lengths(self, T: int) -> Tensor:
        """(B, 1): how many tokens each sequence has with the next one."""
        return self.lengths[:, None] + 1

    def mask(self, T: int, window: int | None = None) -> Tensor:
        """(B, 1, 1, S): True for what the next tokens attend to."""
        back = self.lengths[:, None] - torch.arange(self.keys.shape[3], device=self.lengths.device)  # (B, S)
        mask = back >= 0 if window is None else (back >= 0) & (back < window)
        return mask[:, None, None]


Cache = KVCache | TreeCache | BatchCache | BucketCache | Forest  # what a model takes
