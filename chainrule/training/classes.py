"""The objective of finetuning: the class of a text, by cross-entropy. Knows tokens and numbers of classes, not labels.

Shapes: N texts, B of them in a batch, T tokens of the longest, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule.model.padding import Tokens
from chainrule.training.epochs import Epochs
from chainrule.training.objectives import Validation
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.text_batches import text_batches


@dataclass(frozen=True)
class LabelledTexts:
    """Texts as tokens, and their classes (N,)."""

    documents: Sequence[Tokens]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.documents)


class LabelledBatch(NamedTuple):
    """Some texts that are computed together."""

    tokens: Tensor  # (B, T)
    last: Tensor  # (B,) the position of each text's last token
    classes: Tensor  # (B,)
    weights: Tensor  # (B,)


@dataclass
class Classes:
    """Predict the class of each text."""

    texts: LabelledTexts
    weights: NDArray[np.float32]  # (C,) how much a text of each class counts
    epochs: Epochs
    smoothing: float = 0.0  # share of a label that is spread over all classes

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[LabelledBatch]:
        rows = self.epochs.rows(len(self.texts), step, rank, world)
        return self._micro_batches(self.texts, rows, self.epochs.tokens_at_once)

    def halve(self) -> str | None:
        return self.epochs.halve()

    def loss(self, model: nn.Module, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Weighted by class; the count is the sum of the weights."""
        logits = model(batch.tokens, batch.last)
        losses = F.cross_entropy(logits, batch.classes, reduction="none", label_smoothing=self.smoothing)
        return losses @ batch.weights, batch.weights.sum()

    def validate(self, model: nn.Module, texts: LabelledTexts, processes: Processes = ALONE) -> Validation:
        """Accuracy and loss on other texts, without smoothing; each process computes a part of them."""
        batches, found = self._micro_batches(texts, np.arange(len(texts)), self.epochs.validated_together), []
        for batch, counts in processes.every_nth(batches):
            logits = model(batch.tokens, batch.last)  # (B, C)
            if counts:
                found.append((logits, batch.classes, batch.weights))
        zero = torch.zeros((), device=self.epochs.device)
        loss, right, weight = processes.sum(*self._sums(found) if found else (zero, zero, zero))
        return Validation(float(loss / weight), float(right / weight))

    def _sums(self, found: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Of logits, classes and weights: the losses, the right answers and the texts, each weighted."""
        logits, classes, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        losses = F.cross_entropy(logits, classes, reduction="none")
        right = logits.argmax(-1) == classes
        return losses @ weights, (right * weights).sum(), weights.sum()

    def _micro_batches(self, texts: LabelledTexts, rows: NDArray[np.int64], at_once: int) -> list[LabelledBatch]:
        columns = texts.classes, self.weights[texts.classes]
        made = text_batches(texts.documents, columns, rows, at_once, self.epochs.device)
        return [LabelledBatch(*tensors) for tensors in made]
