"""Micro-batches of texts with what is to be predicted of each. Knows tokens and arrays, not what these say.

Shapes: B texts of a micro-batch, T tokens of the longest.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.model.padding import Tokens, by_length, padded


def text_batches(
    documents: Sequence[Tokens],
    columns: Sequence[NDArray[np.generic]],
    rows: NDArray[np.int64],
    tokens_at_once: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, ...]]:
    """The texts of these rows, those of like length together: tokens (B, T), the position of each text's last token
    (B,), and B rows of each of the columns.

    `tokens_at_once`: the most tokens of a micro-batch, with padding.
    """
    for part in by_length([len(documents[row]) for row in rows], tokens_at_once):
        tokens, last = padded([documents[row] for row in rows[part]], device)
        yield (tokens, last, *(machine.to_device(torch.from_numpy(column[rows[part]]), device) for column in columns))
