"""Sequences of unequal lengths in one batch. Knows tokens, no model.

Shapes: B sequences in a batch, T tokens in the longest of these.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.errors import ChainruleError
from chainrule.terminal import log as print_line

Tokens = Sequence[int] | NDArray[np.integer]
Value = TypeVar("Value")


def by_length(lengths: Sequence[int], tokens_at_once: int) -> Iterator[list[int]]:
    """Batches of indices, shortest sequences first: at most `tokens_at_once` with their padding, or one sequence."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > tokens_at_once:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def in_memory(
    lengths: Sequence[int],
    tokens_at_once: int,
    compute: Callable[[list[int]], Value],
    log: Callable[[str], None] = print_line,
) -> Iterator[tuple[list[int], Value]]:
    """The batches of `by_length`, and what `compute` makes of each. Where memory runs out, the sequences that are left
    are computed in smaller batches, and `log` is told so. ChainruleError where one sequence alone is too much."""
    left = list(range(len(lengths)))
    while left:
        batches = [
            [left[index] for index in part] for part in by_length([lengths[row] for row in left], tokens_at_once)
        ]
        left = []
        for number, rows in enumerate(batches):
            made: list[Value] = []
            try:
                made.append(compute(rows))
            except RuntimeError as error:
                if not machine.is_out_of_memory(error):
                    raise
            if made:
                yield rows, made[0]
                continue
            # The error, and with it whatever its frames hold, is gone here.
            if len(rows) == 1:
                raise ChainruleError(
                    f"model: wanted memory for one text of {lengths[rows[0]]} tokens, got too little; shorten it, or"
                    " take --dtype bfloat16 or a smaller model"
                )
            machine.empty_cache(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            tokens_at_once = len(rows) * lengths[rows[-1]] // 2
            log(f"out of memory: going on with {tokens_at_once} tokens at once")
            left = [row for batch in batches[number:] for row in batch]
            break


def padded(sequences: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (B, T), padded on the right, and the position of each sequence's last token, (B,)."""
    last = torch.tensor([len(sequence) - 1 for sequence in sequences])
    tokens = torch.zeros(len(sequences), int(last.max()) + 1, dtype=torch.long)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = torch.as_tensor(np.asarray(sequence, np.int64))
    return machine.to_device(tokens, device), machine.to_device(last, device)
