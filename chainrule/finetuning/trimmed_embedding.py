"""An embedding with the rows of some tokens only. Knows token ids, not what they stand for.

Shapes: V vocabulary, U tokens that occur, D width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


class TrimmedEmbedding(nn.Module):
    """The rows (U, D) of the tokens that occur, in float32, looked up by the usual ids.

    The other rows get no gradient and, without weight decay, never move: leaving them out saves the optimizer's work
    and memory, which grow with V otherwise. It takes the place of an embedding that is no output layer too.
    """

    def __init__(self, embedding: Tensor, occurring: NDArray[np.int64]) -> None:
        """`embedding` (V, D) is copied; `occurring` (U,) are ids, ascending."""
        super().__init__()
        self.occurring = torch.from_numpy(occurring).to(embedding.device)
        rows = torch.zeros(len(embedding), dtype=torch.long, device=embedding.device)
        rows[self.occurring] = torch.arange(len(occurring), device=embedding.device)
        self.register_buffer("rows", rows, persistent=False)  # (V,) token id -> row; 0 for those that do not occur
        self.weight = nn.Parameter(embedding.detach()[self.occurring].float().contiguous())

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""
        return F.embedding(self.get_buffer("rows")[tokens], self.weight)

    def whole(self, embedding: Tensor, weight: Tensor) -> Tensor:
        """(V, D) in float32: the embedding this one was made from, with the trained rows `weight` (U, D)."""
        restored = embedding.detach().float().clone()
        restored[self.occurring] = weight
        return restored
