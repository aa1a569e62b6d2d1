"""The objective of finetuning on label words: p(label word | prompt) among the task's label words (as LM-BFF; Gao et
al., 2021). Knows tokens and numbers of classes, not labels.

Shapes: N texts, B of them in a batch, C classes, M predicted tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.model.transformer import Transformer
from chainrule.training.epochs import Epochs
from chainrule.training.objectives import Validation
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.spans import LONGEST_ROW, Span, SpanBatch, in_rows, size_of


@dataclass(frozen=True)
class WordTexts:
    """Of each of N texts the C label words in its prompt, and its class (N,)."""

    options: Sequence[Sequence[Span]]
    classes: NDArray[np.int64]
    lengths: NDArray[np.float32] | None = None  # (N, C) that each word's log p is divided by; None: 1

    def __len__(self) -> int:
        return len(self.options)


class WordBatch(NamedTuple):
    """Some texts that are computed together."""

    spans: SpanBatch  # C of each text, one text's after the other's
    classes: Tensor  # (B,)
    weights: Tensor  # (B,)
    lengths: Tensor | None = None  # (B, C) that each word's log p is divided by; None: 1


@dataclass
class LabelWords:
    """Choose the right one of each text's label words. A word's score is the sum of log p over its tokens,
    divided by its length where the texts have lengths."""

    texts: WordTexts
    weights: NDArray[np.float32]  # (C,) how much a text of each class counts
    epochs: Epochs
    causal: bool
    original_context: int | None = None
    smoothing: float = 0.0  # share of a label that is spread over all classes

    @property
    def longest(self) -> int:
        """Tokens of the longest text, with all its label words."""
        return max(self._sizes)

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[WordBatch]:
        rows = self.epochs.rows(len(self.texts), step, rank, world)
        return self._micro_batches(self.texts, rows, self._sizes, self.epochs.tokens_at_once)

    def halve(self) -> str | None:
        return self.epochs.halve()

    def loss(self, model: Transformer, batch: WordBatch) -> tuple[Tensor, Tensor]:
        """Weighted by class; the count is the sum of the weights."""
        losses = F.cross_entropy(
            self._scores(model, batch), batch.classes, reduction="none", label_smoothing=self.smoothing
        )
        return losses @ batch.weights, batch.weights.sum()

    def validate(self, model: Transformer, texts: WordTexts, processes: Processes = ALONE) -> Validation:
        """Accuracy and loss on other texts, without smoothing; each process computes a part of them."""
        sizes = _sizes(texts, self.causal)
        batches = self._micro_batches(texts, np.arange(len(texts)), sizes, self.epochs.validated_together)
        loss = correct = total = torch.zeros((), device=self.epochs.device)
        for batch, counts in processes.every_nth(batches):
            scores = self._scores(model, batch)  # (B, C)
            if counts:
                losses = F.cross_entropy(scores, batch.classes, reduction="none")
                right = scores.argmax(-1) == batch.classes
                loss, total = loss + losses @ batch.weights, total + batch.weights.sum()
                correct = correct + (right * batch.weights).sum()
        loss, correct, total = processes.sum(loss, correct, total)
        return Validation(float(loss / total), float(correct / total))

    def _scores(self, model: Transformer, batch: WordBatch) -> Tensor:
        """(B, C) log p of each label word with all its tokens, by its length."""
        log_probs = batch.spans.log_probs(model)  # (M,)
        scores = log_probs.new_zeros(len(batch.classes) * len(self.weights))
        scores = scores.index_add(0, batch.spans.spans, log_probs).view(len(batch.classes), -1)
        return scores if batch.lengths is None else scores / batch.lengths

    def _micro_batches(
        self, texts: WordTexts, rows: NDArray[np.int64], sizes: Sequence[int], at_once: int
    ) -> list[WordBatch]:
        batches = []
        for part in in_rows([sizes[row] for row in rows], min(at_once, LONGEST_ROW)):
            spans = [span for row in rows[part] for span in texts.options[row]]
            classes = texts.classes[rows[part]]
            columns = [classes, self.weights[classes]]
            columns += [] if texts.lengths is None else [texts.lengths[rows[part]]]
            tensors = (machine.to_device(torch.from_numpy(array), self.epochs.device) for array in columns)
            batch = SpanBatch(spans, self.causal, self.epochs.device, self.original_context)
            batches.append(WordBatch(batch, *tensors))
        return batches

    @cached_property
    def _sizes(self) -> list[int]:
        return _sizes(self.texts, self.causal)


def _sizes(texts: WordTexts, causal: bool) -> list[int]:
    return [size_of(options, causal) for options in texts.options]
