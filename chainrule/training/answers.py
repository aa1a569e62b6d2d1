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
from chainrule.training.epochs import Epochs
from chainrule.training.objectives import Validation, mean_loss
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.spans import LONGEST_ROW, Span, SpanBatch, in_rows


@dataclass
class Answers:
    """Predict the answer behind each prompt, token by token. Several texts are packed into a row; each attends to
    itself alone, so that the loss is that of the texts one by one."""

    texts: Sequence[Span]
    epochs: Epochs
    original_context: int | None = None  # as in the model's config

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(len(text.tokens) for text in self.texts)

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[SpanBatch]:
        rows = self.epochs.rows(len(self.texts), step, rank, world)
        return self._packed(self.texts, rows, self.epochs.tokens_at_once)

    def halve(self) -> str | None:
        return self.epochs.halve()

    def loss(self, model: Transformer, batch: SpanBatch) -> tuple[Tensor, Tensor]:
        """The count is that of the answers' tokens: a long answer counts more than a short one."""
        mean, count = batch.mean_loss(model), len(batch.targets)
        return mean * count, torch.full((), count, dtype=mean.dtype, device=mean.device)

    def validate(self, model: Transformer, texts: Sequence[Span], processes: Processes = ALONE) -> Validation:
        """The mean loss over the tokens of other texts' answers; each process computes a part of them."""
        batches = self._packed(texts, np.arange(len(texts)), self.epochs.validated_together)
        return mean_loss(model, self, batches, processes)

    def _packed(self, texts: Sequence[Span], rows: NDArray[np.int64], at_once: int) -> list[SpanBatch]:
        groups = in_rows([len(texts[row].tokens) for row in rows], min(at_once, LONGEST_ROW))
        device, original = self.epochs.device, self.original_context
        return [SpanBatch([texts[row] for row in rows[part]], True, device, original) for part in groups]
