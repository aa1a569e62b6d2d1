"""The objective of finetuning on answers: log p(answer | prompt), of the answer and its end alone. Knows tokens.

Shapes: N texts, M predicted tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.model.transformer import Transformer
from chainrule.training.epochs import halved, rows_of_step
from chainrule.training.objectives import Validation, mean_loss
from chainrule.training.spans import LONGEST_ROW, Span, SpanBatch, in_rows


@dataclass
class Answers:
    """Predict the answer behind each prompt, token by token. Several texts are packed into a row; each attends to
    itself alone, so that the loss is that of the texts one by one."""

    texts: Sequence[Span]
    batch_size: int  # texts a step
    tokens_at_once: int  # in a micro-batch
    device: torch.device
    seed: int

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[SpanBatch]:
        return self._packed(self.texts, rows_of_step(len(self.texts), self.batch_size, self.seed, step, rank, world))

    def halve(self) -> str | None:
        self.tokens_at_once, size = halved(self.tokens_at_once)
        return size

    def loss(self, model: Transformer, batch: SpanBatch) -> tuple[Tensor, Tensor]:
        """The count is that of the answers' tokens: a long answer counts more than a short one."""
        mean, count = batch.mean_loss(model), len(batch.targets)
        return mean * count, torch.full((), count, dtype=mean.dtype, device=mean.device)

    def validate(self, model: Transformer, texts: Sequence[Span]) -> Validation:
        """The mean loss over the tokens of other texts' answers."""
        return mean_loss(model, self, self._packed(texts, np.arange(len(texts))))

    def _packed(self, texts: Sequence[Span], rows: NDArray[np.int64]) -> list[SpanBatch]:
        groups = in_rows([len(texts[row].tokens) for row in rows], min(self.tokens_at_once, LONGEST_ROW))
        return [SpanBatch([texts[row] for row in rows[part]], True, self.device) for part in groups]
