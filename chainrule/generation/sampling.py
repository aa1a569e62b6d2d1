"""The next token from logits: softmax(u / τ), its filters, and the draw. Knows no model and no text.

Shapes: B sequences, V vocabulary. A filtered logit is -inf, so that its probability is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chainrule.errors import OptionError

# Below this temperature softmax(u / τ) is the argmax, as far as float32 can tell logits apart.
_COLDEST = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The filters apply to softmax(u / τ), in this order, as in transformers."""

    temperature: float = 1.0  # τ; 0 is the most probable token
    top_k: int | None = None  # keep the k most probable
    top_p: float | None = None  # keep the fewest whose probabilities sum to p (Holtzman et al., 2020)
    min_p: float | None = None  # keep those at least so probable, relative to the most probable (Nguyen et al., 2024)
    repetition_penalty: float = 1.0  # before all others, for every token so far, the prompt's too (Keskar et al., 2019)

    def __post_init__(self) -> None:
        # Written so that NaN fails too.
        if not 0 <= self.temperature < float("inf"):
            raise OptionError(f"--temperature: wanted a number of at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"--top-k: wanted at least 1, got {self.top_k}; leave it out to keep all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError(f"--top-p: wanted more than 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise OptionError(f"--min-p: wanted from 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise OptionError(f"--repetition-penalty: wanted more than 0, got {self.repetition_penalty}; 1 is none")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken: τ → 0."""
        return self.temperature < _COLDEST


def penalise_repetition(logits: Tensor, occurred: Tensor, penalty: float | Tensor) -> Tensor:
    """Lower the logits (B, V) of tokens that `occurred` (B, V): positive ones are divided by `penalty`, or by each
    row's (B, 1), negative ones multiplied."""
    return torch.where(occurred, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k greatest of each row (B, V), and any equal to the k-th."""
    smallest = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable of each row (B, V) until their probabilities sum to at least p."""
    descending = logits.sort(descending=True).values
    probabilities = descending.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # the sum over more probable tokens
    # Rounding may let the sum reach 1 before the end: p = 1 keeps all.
    smallest = descending.masked_fill((before >= p) & (p < 1), torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep those of each row (B, V) whose probability is at least p times the greatest."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """softmax(u / τ) over the tokens that the filters keep; (B, V) float32 logits to (B, V).

    >>> probabilities(torch.tensor([[0.0, 0.0, -9.0]]), Sampling(top_k=2)).tolist()
    [[0.5, 0.5, 0.0]]
    """
    if sampling.greedy:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    # softmax(u) = softmax(u - max(u)), which does not overflow for a small τ.
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(-1)


def random_numbers(seed: int, sample: int) -> np.random.Generator:
    """A generator of uniform numbers for one sequence: they depend on (seed, sample) alone, so its text does too.

    Raises OptionError for a seed out of range.
    """
    if not 0 <= seed < 2**64:
        raise OptionError(f"--seed: wanted a whole number from 0 to 2**64 - 1, got {seed}")
    return np.random.Generator(np.random.Philox(key=np.array([seed, sample], np.uint64)))


def draw(probabilities: Tensor, random: Sequence[np.random.Generator]) -> Tensor:
    """A token (B,) drawn from each row of p (B, V): where the cumulative sum of p exceeds a uniform random number.

    The sum is in float64 and in the vocabulary's order: p differs in its last bits from batch to batch, and the chance
    of another token is of the order of that difference.
    """
    dtype = torch.float32 if probabilities.device.type == "mps" else torch.float64  # mps has no float64
    uniform = torch.tensor([each.random() for each in random], dtype=dtype, device=probabilities.device)
    cumulative = probabilities.to(dtype).cumsum(-1)  # (B, V)
    reached = (uniform * cumulative[:, -1])[:, None]
    # `right` skips tokens of probability 0. The product may round up to the whole sum: hence the clamp.
    return torch.searchsorted(cumulative, reached, right=True).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


def choose(logits: Tensor, sampling: Sampling, random: Sequence[np.random.Generator]) -> Tensor:
    """The next tokens (B,) by logits (B, V): drawn from softmax(u / τ), or the most probable ones."""
    return logits.argmax(-1) if sampling.greedy else draw(probabilities(logits, sampling), random)
