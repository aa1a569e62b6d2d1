"""Which examples a step takes, and how many tokens are computed together. Knows numbers alone."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.corpus.batches import share


@dataclass
class Epochs:
    """A step takes the next of endlessly many epochs, each shuffled anew, and computes them in micro-batches."""

    batch_size: int  # examples a step
    tokens_at_once: int  # of a micro-batch, with padding; examples of like length go together
    device: torch.device
    seed: int
    validated_together: int = field(init=False)  # tokens

    def __post_init__(self) -> None:
        # Memory may run out in some of the processes only, and all must cut what they validate on alike: not halved.
        self.validated_together = self.tokens_at_once

    def rows(self, n: int, step: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
        """Of n examples those that process `rank` of `world` takes at a step (from 0); a function of the arguments."""
        start = step * self.batch_size
        epochs = range(start // n, (start + self.batch_size - 1) // n + 1)
        order = np.concatenate([np.random.default_rng([self.seed, epoch]).permutation(n) for epoch in epochs])
        first = start - epochs[0] * n
        rows: NDArray[np.int64] = order[first : first + self.batch_size][share(self.batch_size, rank, world)]
        return rows

    def halve(self) -> str | None:
        """As `Objective.halve`: None where an example is computed alone already."""
        if self.tokens_at_once <= 1:
            return None
        self.tokens_at_once //= 2
        return f"{self.tokens_at_once} tokens"
