"""Sequences of unequal lengths in one batch. Knows tokens, no model.

Shapes: B sequences in a batch, T tokens in the longest of these.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine

Tokens = Sequence[int] | NDArray[np.integer]


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


def padded(sequences: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (B, T), padded on the right, and the position of each sequence's last token, (B,)."""
    last = torch.tensor([len(sequence) - 1 for sequence in sequences])
    tokens = torch.zeros(len(sequences), int(last.max()) + 1, dtype=torch.long)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = torch.as_tensor(np.asarray(sequence, np.int64))
    return machine.to_device(tokens, device), machine.to_device(last, device)
