"""The objectives of finetuning for several labels at once, and for a number. Knows tokens and targets, not labels.

Shapes: N texts, B of them in a batch, T tokens of the longest, C targets of a text.
"""

from collections.abc import Callable, Sequence
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
class TargetTexts:
    """Texts as tokens, their targets (N, C), 0 or 1 for each label or a number, and weights (N, C) of their losses."""

    documents: Sequence[Tokens]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.documents)


class TargetBatch(NamedTuple):
    """Some texts that are computed together."""

    tokens: Tensor  # (B, T)
    last: Tensor  # (B,) the position of each text's last token
    targets: Tensor  # (B, C)
    weights: Tensor  # (B, C)


def label_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """-log p of each label's truth (B, C), the outputs being logits of sigmoids; targets may lie between 0 and 1."""
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared errors (B, C): -log p of a normal distribution of variance 1, less a constant."""
    return (outputs - targets) ** 2 / 2


@dataclass
class Targets:
    """Predict the targets of each text; the loss is the weighted mean over texts and targets."""

    texts: TargetTexts
    losses: Callable[[Tensor, Tensor], Tensor]  # of outputs and targets (B, C), element by element
    epochs: Epochs
    smoothing: float = 0.0  # share of a target that is replaced by the target's mean over the texts

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[TargetBatch]:
        rows = self.epochs.rows(len(self.texts), step, rank, world)
        means = self.texts.targets.mean(0)
        targets = self.texts.targets + np.float32(self.smoothing) * (means - self.texts.targets)
        return self._micro_batches(self.texts, targets, rows, self.epochs.tokens_at_once)

    def halve(self) -> str | None:
        return self.epochs.halve()

    def loss(self, model: nn.Module, batch: TargetBatch) -> tuple[Tensor, Tensor]:
        """Weighted; the count is the sum of the weights."""
        losses = self.losses(model(batch.tokens, batch.last), batch.targets)
        return (losses * batch.weights).sum(), batch.weights.sum()

    def validate(self, model: nn.Module, texts: TargetTexts, processes: Processes = ALONE) -> Validation:
        """The loss on other texts, without smoothing; each process computes a part of them. The best state is the one
        of least loss."""
        losses, weights = torch.zeros(2, dtype=torch.float64, device=self.epochs.device)
        batches = self._micro_batches(texts, texts.targets, np.arange(len(texts)), self.epochs.validated_together)
        for batch, counts in processes.every_nth(batches):
            found = self.losses(model(batch.tokens, batch.last), batch.targets)
            if counts:
                losses += (found * batch.weights).sum()
                weights += batch.weights.sum()
        losses, weights = processes.sum(losses, weights)
        return Validation(float(losses / weights))

    def _micro_batches(
        self, texts: TargetTexts, targets: NDArray[np.float32], rows: NDArray[np.int64], at_once: int
    ) -> list[TargetBatch]:
        made = text_batches(texts.documents, (targets, texts.weights), rows, at_once, self.epochs.device)
        return [TargetBatch(*tensors) for tensors in made]
