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

from chainrule.model.padding import Tokens, by_length, padded
from chainrule.training.epochs import rows_of_step
from chainrule.training.objectives import Validation


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


@dataclass(frozen=True)
class Classes:
    """Predict the class of each text. A step takes the next texts of endlessly many epochs, each shuffled anew."""

    texts: LabelledTexts
    weights: NDArray[np.float32]  # (C,) how much a text of each class counts
    batch_size: int
    tokens_at_once: int  # in a micro-batch, with padding; texts of like length go together
    device: torch.device
    seed: int
    smoothing: float = 0.0  # share of a label that is spread over all classes

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[LabelledBatch]:
        rows = rows_of_step(len(self.texts), self.batch_size, self.seed, step, rank, world)
        return self._micro_batches(self.texts, rows)

    def loss(self, model: nn.Module, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Weighted by class; the count is the sum of the weights."""
        logits = model(batch.tokens, batch.last)
        losses = F.cross_entropy(logits, batch.classes, reduction="none", label_smoothing=self.smoothing)
        return losses @ batch.weights, batch.weights.sum()

    def validate(self, model: nn.Module, texts: LabelledTexts) -> Validation:
        """Accuracy and loss on other texts, without smoothing."""
        batches = self._micro_batches(texts, np.arange(len(texts)))
        logits = torch.cat([model(batch.tokens, batch.last) for batch in batches])  # (N, C)
        classes, weights = (torch.cat([batch[part] for batch in batches]) for part in (2, 3))
        right = logits.argmax(-1) == classes
        losses = F.cross_entropy(logits, classes, reduction="none")
        return Validation(float(losses @ weights / weights.sum()), float((right * weights).sum() / weights.sum()))

    def _micro_batches(self, texts: LabelledTexts, rows: NDArray[np.int64]) -> list[LabelledBatch]:
        batches = []
        for part in by_length([len(texts.documents[row]) for row in rows], self.tokens_at_once):
            classes = texts.classes[rows[part]]
            tokens, last = padded([texts.documents[row] for row in rows[part]], self.device)
            both = (torch.from_numpy(array).to(self.device) for array in (classes, self.weights[classes]))
            batches.append(LabelledBatch(tokens, last, *both))
        return batches
