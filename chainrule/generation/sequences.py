"""Sequences that are generated together, and the choice of their next tokens, each by its own sampling.

Shapes: B sequences, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from chainrule.generation.sampling import Sampling, choose, penalise_repetition, random_numbers
from chainrule.model.native import operations
from chainrule.model.native.products import usable

_AHEAD = 512  # for so many tokens more than a sequence has, its cache is made at once


@dataclass(eq=False)
class GrowingSequence:
    """A sequence that is generated: its prompt, its tokens so far, and what determines the next one."""

    id: int
    prompt: tuple[int, ...]
    sampling: Sampling
    seeds: tuple[int, int]  # the seed, and the sample's number
    random: np.random.Generator
    stop_tokens: Collection[int]
    max_tokens: int  # the context counted
    top: int  # how many of the most probable tokens are wanted
    tokens: list[int] = field(default_factory=list)  # generated; the last is not in the cache yet
    occurred: Tensor | None = None  # (V,) True for tokens that a repetition penalty lowers; None: there is no penalty

    @property
    def text(self) -> tuple[int, ...]:
        """The prompt and what was generated: what is processed before the next token."""
        return (*self.prompt, *self.tokens) if self.tokens else self.prompt

    @property
    def columns(self) -> int:
        """Of the cache, with some for what is still to come: at the end the last token is not processed."""
        at_end = len(self.prompt) + self.max_tokens - 1
        return min(at_end, len(self.prompt) + len(self.tokens) + _AHEAD)

    def again(self) -> "GrowingSequence":
        """A copy whose random numbers are those of the next token: one was drawn for each, unless it was greedy."""
        random = random_numbers(*self.seeds)
        if not self.sampling.greedy:
            random.random(len(self.tokens))
        occurred = None if self.occurred is None else self.occurred.clone()
        return replace(self, random=random, tokens=list(self.tokens), occurred=occurred)


Best = tuple[tuple[int, float], ...]  # the most probable tokens, and log p of each


def choose_tokens(logits: Tensor, sequences: Sequence[GrowingSequence]) -> tuple[list[int], list[float], list[Best]]:
    """The next token of each sequence by its logits (B, V); log p of it, in nats; and the most probable tokens."""
    adjusted = _with_penalties(logits, sequences)
    greatest, totals = best_of(logits)
    alike: dict[Sampling, list[int]] = {}
    for row, sequence in enumerate(sequences):
        alike.setdefault(sequence.sampling, []).append(row)
    chosen = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for sampling, rows in alike.items():
        these = slice(None) if len(alike) == 1 else rows  # a list is copied to a GPU, each time it is an index
        if sampling.greedy and adjusted is logits:
            chosen[these] = greatest[these]
        else:
            chosen[these] = choose(adjusted[these], sampling, [sequences[row].random for row in rows])
    log_probs = logits.gather(1, chosen[:, None])[:, 0] - totals
    best: list[Best] = [()] * len(logits)
    for row, sequence in enumerate(sequences):
        if sequence.top:
            values, tokens = logits[row].topk(sequence.top)
            best[row] = tuple(zip(tokens.tolist(), (values - totals[row]).tolist(), strict=True))
    return chosen.tolist(), log_probs.tolist(), best


def best_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable tokens (B,) by logits (B, V), and log Σ e^u (B,)."""
    if logits.dtype == torch.float32 and usable(logits):
        return operations.best(logits)
    return logits.argmax(-1), logits.logsumexp(-1)


def _with_penalties(logits: Tensor, sequences: Sequence[GrowingSequence]) -> Tensor:
    """The logits, lowered for tokens that occurred in sequences with a repetition penalty."""
    occurred = {row: each for row, sequence in enumerate(sequences) if (each := sequence.occurred) is not None}
    if not occurred:
        return logits
    rows = list(occurred)
    penalties = logits.new_tensor([sequences[row].sampling.repetition_penalty for row in rows])
    adjusted = logits.clone()
    adjusted[rows] = penalise_repetition(logits[rows], torch.stack([*occurred.values()]), penalties[:, None])
    return adjusted
