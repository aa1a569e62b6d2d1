"""Keys and values of prefixes that were computed before, kept in blocks up to a number of tokens. Knows no model.

A block has the keys and values of BLOCK tokens. It is found by its tokens and the block before it, both compared, so
that no hash has to be trusted. Of a model with an original context (`Config.original_context`), sequences longer than
that have blocks of their own: `long`. The block that was used least recently is the first to be overwritten; a block is
always used with those before it, so it is never one that another still needs.

Shapes: L layers, G key-value heads, K head width, T tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 32  # tokens

_Key = tuple[int, bytes]  # the number of the block before, and the tokens
_BEFORE_FIRST = {False: 0, True: -1}  # blocks are numbered from 1 on


class PrefixCache:
    """Blocks of keys and values for at most `tokens` tokens; the memory is reserved once."""

    def __init__(
        self, tokens: int, layers: int, heads: int, head_width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (tokens // BLOCK, layers, heads, BLOCK, head_width)
        self._keys, self._values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        self._free = list(range(shape[0]))  # rows of these tensors
        # Block -> its number, never used again, and its row; the least recently used first.
        self._blocks: OrderedDict[_Key, tuple[int, int]] = OrderedDict()
        self._made = 0
        self.found = self.asked = 0  # tokens found, and asked for, by `load` so far

    def __len__(self) -> int:
        """How many tokens are in the cache."""
        return len(self._blocks) * BLOCK

    def match(self, tokens: NDArray[np.int32], most: int, long: bool = False) -> int:
        """How many of the first `most` tokens are in the cache: whole blocks."""
        return len(self._chain(tokens, most, long)) * BLOCK

    def load(
        self, tokens: NDArray[np.int32], start: int, most: int, keys: Tensor, values: Tensor, long: bool = False
    ) -> int:
        """Write the cached tokens' keys and values from column `start` on into (L, G, S, K); where they end.

        They are at most the first `most` tokens. `start` where no later column is cached.
        """
        chain = self._chain(tokens, most, long)
        self.asked += len(tokens) - start
        end = len(chain) * BLOCK
        if end <= start:
            return start
        self.found += end - start
        self._use(chain)
        first = start // BLOCK
        rows = torch.tensor([self._blocks[key][1] for key in chain[first:]], device=keys.device)
        for pool, wanted in ((self._keys, keys), (self._values, values)):
            blocks = pool[rows].permute(1, 2, 0, 3, 4).flatten(2, 3)  # (L, G, T, K)
            wanted[:, :, start:end] = blocks[:, :, start - first * BLOCK :]
        return end

    def save(
        self,
        tokens: Sequence[int] | NDArray[np.int32],
        keys: Tensor,
        values: Tensor,
        columns: Tensor,
        long: bool = False,
    ) -> None:
        """Keep the whole blocks of `tokens`, whose keys and values are in these columns (T,) of (L, G, S, K)."""
        ids, before = np.asarray(tokens, np.int32), _BEFORE_FIRST[long]
        chain: list[_Key] = []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (before, ids[start : start + BLOCK].tobytes())
            block = self._blocks.get(key)
            if block is None:
                row = self._row(len(chain))
                if row is None:
                    break
                there = columns[start : start + BLOCK]
                self._keys[row], self._values[row] = keys[:, :, there], values[:, :, there]
                self._made += 1
                block = self._blocks[key] = (self._made, row)
            chain.append(key)
            self._use(chain[-1:])
            before = block[0]
        self._use(chain)

    def clear(self) -> None:
        """Forget all blocks."""
        self._free += [row for _, row in self._blocks.values()]
        self._blocks.clear()

    def _chain(self, tokens: NDArray[np.int32], most: int, long: bool) -> list[_Key]:
        chain: list[_Key] = []
        before = _BEFORE_FIRST[long]
        for start in range(0, min(most, len(tokens)) - BLOCK + 1, BLOCK):
            key = (before, tokens[start : start + BLOCK].tobytes())
            block = self._blocks.get(key)
            if block is None:
                break
            chain.append(key)
            before = block[0]
        return chain

    def _use(self, chain: Sequence[_Key]) -> None:
        """Mark blocks as used now, a block's followers before it: they are overwritten first."""
        for key in reversed(chain):
            self._blocks.move_to_end(key)

    def _row(self, in_use: int) -> int | None:
        """A row for a new block, of the least recently used one if none is free; None where only the `in_use` blocks
        of the same text are left."""
        if self._free:
            return self._free.pop()
        if len(self._blocks) <= in_use:
            return None
        _, (_, row) = self._blocks.popitem(last=False)
        return row
