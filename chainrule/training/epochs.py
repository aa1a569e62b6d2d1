"""Which examples a step takes: the next of endlessly many epochs, each shuffled anew; how many tokens together. Knows
numbers alone."""

import numpy as np
from numpy.typing import NDArray

from chainrule.corpus.batches import share


def rows_of_step(n: int, batch_size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
    """Of n examples those that process `rank` of `world` takes at a step (from 0); a function of the arguments."""
    start = step * batch_size
    epochs = range(start // n, (start + batch_size - 1) // n + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(n) for epoch in epochs])
    first = start - epochs[0] * n
    rows: NDArray[np.int64] = order[first : first + batch_size][share(batch_size, rank, world)]
    return rows


def halved(tokens_at_once: int) -> tuple[int, str | None]:
    """Half as many tokens at once, and how a message names them; None where a text is computed alone already."""
    if tokens_at_once <= 1:
        return tokens_at_once, None
    return tokens_at_once // 2, f"{tokens_at_once // 2} tokens"
