"""Sequences of which some tokens are to be predicted, computed together. Knows tokens, not what they stand for.

Shapes: N hidden states that predict, M tokens that are predicted, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chainrule import machine
from chainrule.model.chunked_loss import chunked_log_probs, positions_at_once
from chainrule.model.forest import Forest, Tokens, common_beginning
from chainrule.model.padding import padded
from chainrule.model.transformer import Transformer

LONGEST_ROW = 1024  # tokens that are packed into a row, at most: the work of its attention grows with their square


class Span(NamedTuple):
    """A sequence and the tokens that are predicted: each by the hidden state at one of `positions`.

    In a causal model that is the position before the token's own, in a masked one the token's own.
    """

    tokens: Tokens  # BOS first
    positions: Sequence[int]
    targets: Sequence[int]


class SpanBatch:
    """Spans whose hidden states are computed in one call: packed where the model is causal, else padded.

    `targets` (M,) are the predicted tokens, span by span; `spans` (M,) the span that each belongs to; `states` (M,)
    which of the hidden states (N, D) predicts it.
    """

    def __init__(
        self, spans: Sequence[Span], causal: bool, device: torch.device, original_context: int | None = None
    ) -> None:
        """`original_context` as in the model's config."""
        numbers = [np.full(len(span.targets), number) for number, span in enumerate(spans)]
        self.targets = machine.to_device(torch.tensor([target for span in spans for target in span.targets]), device)
        self.spans = machine.to_device(torch.from_numpy(np.concatenate(numbers)), device)
        self.forest: Forest | None = None
        if causal:
            self.forest = Forest([span.tokens for span in spans], device, original_context)
            places = np.concatenate(
                [columns[list(span.positions)] for columns, span in zip(self.forest.columns, spans, strict=True)]
            )
        else:
            texts = {tuple(map(int, span.tokens)): 0 for span in spans}  # spans may differ in their targets alone
            rows = {text: row for row, text in enumerate(texts)}
            self.tokens, self.last = padded(list(texts), device)
            longest = self.tokens.shape[1]
            places = np.concatenate(
                [rows[tuple(map(int, span.tokens))] * longest + np.array(span.positions, np.int64) for span in spans]
            )
        wanted, states = np.unique(places, return_inverse=True)
        self.wanted, self.states = (machine.to_device(torch.from_numpy(array), device) for array in (wanted, states))

    def features(self, model: Transformer) -> Tensor:
        """The hidden states (N, D) that predict."""
        if self.forest is None:
            features: Tensor = model(self.tokens, output="features", last=self.last)
            return features.flatten(0, 1)[self.wanted]
        self.forest.length = 0  # the model counts what it reads
        packed: Tensor = model(
            self.forest.tokens, output="features", cache=self.forest, output_positions=self.wanted[None]
        )
        return packed[0]

    def log_probs(self, model: Transformer) -> Tensor:
        """log p of each target, (M,) in float32, nats."""
        features = self.features(model)
        at_once = positions_at_once(model.config.vocabulary_size, features.device)
        if len(features) > at_once:
            return chunked_log_probs(lambda part: model(features=part), features, self.states, self.targets, at_once)
        logits: Tensor = model(features=features).float()  # (N, V)
        return logits[self.states, self.targets] - logits.logsumexp(-1)[self.states]

    def mean_loss(self, model: Transformer) -> Tensor:
        """The mean of -log p over the targets, in nats; with less memory for the logits than by `log_probs`."""
        loss: Tensor = model(features=self.features(model)[self.states], targets=self.targets)
        return loss


def size_of(spans: Sequence[Span], causal: bool) -> int:
    """How many tokens of a row these spans take, as far as they share a beginning with the first of them."""
    if not causal:
        return sum(map(len, {tuple(map(int, span.tokens)) for span in spans}))
    first = spans[0].tokens
    return len(first) + sum(len(span.tokens) - common_beginning(first, span.tokens) for span in spans[1:])


def in_rows(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in their order, in groups of at most `most` tokens, or of one index."""
    group: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    if group:
        yield group
