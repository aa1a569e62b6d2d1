"""What training minimises: the next token (equation 14.8) or masked tokens (Devlin et al., 2019). Knows a model and
windows of tokens, not how a step uses their gradients.

Shapes: B windows, T positions, M of them masked, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.corpus.batches import Batches, share, validation_windows
from chainrule.corpus.shards import Split
from chainrule.model.transformer import Transformer
from chainrule.training.parallel import ALONE, Processes

Batch = TypeVar("Batch")
MASKED_SHARE = 0.15  # of a window's tokens: those to predict
MASK_TOKEN, RANDOM_TOKEN = 0.8, 0.1  # of these: replaced by the mask, and by a random token; the others stay


class Objective(Protocol[Batch]):
    """The examples of each step, and their loss."""

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Iterable[Batch]:
        """The micro-batches of a step (from 0) that process `rank` of `world` computes; a function of the arguments.

        Those of all ranks together hold the same examples as those of a single process.
        """
        ...

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of a batch's losses in nats, and how many losses that is (or their total weight): two scalars.

        Sums and counts add up over micro-batches and processes of unequal size, which means would not.
        """
        ...

    def halve(self) -> str | None:
        """Make micro-batches of half the size from now on, as memory ran out: the same examples a step, in more parts.
        Their size as a message names it ("4 windows"); None where they are the smallest."""
        ...


@dataclass(frozen=True)
class Validation:
    """What a state is worth on examples that it did not learn from."""

    loss: float  # nats
    accuracy: float = 0.0  # weighted as the loss is; 0 where the objective has none

    def better(self, other: "Validation | None") -> bool:
        """By accuracy, which the loss of a few examples that are wrong with certainty hides; then by the loss."""
        return other is None or (-self.accuracy, self.loss) < (-other.accuracy, other.loss)


class Compiled:
    """An objective whose loss is computed by torch.compile."""

    def __init__(self, objective: Objective[Any]) -> None:
        self.batches, self.halve = objective.batches, objective.halve
        self.loss = torch.compile(objective.loss, dynamic=False)


@dataclass
class Windows:
    """Where the windows of a pretraining objective come from, and how many are computed together."""

    source: Batches
    batch_size: int  # windows a step
    micro_batch_size: int  # windows a forward pass
    device: str

    def __post_init__(self) -> None:
        # Memory may run out in some of the processes only, and all must cut what they validate on alike: not halved.
        self._validated_together = self.micro_batch_size

    def halve(self) -> str | None:
        """As `Objective.halve`."""
        if self.micro_batch_size == 1:
            return None
        self.micro_batch_size = -(-self.micro_batch_size // 2)
        return f"{self.micro_batch_size} windows"

    def of(self, split: Split) -> Iterator[NDArray[np.int64]]:
        """All of a split, (B, T + 1) at a time; the last window may be shorter."""
        return validation_windows(split, self.source.context, self._validated_together)


class PretrainingObjective(Objective[Any], Protocol):
    """An objective whose batches are windows of a corpus, and which is validated on those kept from it."""

    @property
    def windows(self) -> Windows: ...

    def validate(self, model: Transformer, split: Split, processes: Processes = ALONE) -> Validation: ...


@dataclass(frozen=True)
class NextToken:
    """Predict each token of a window from those before it."""

    windows: Windows

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Sequence[Tensor]:
        tokens = torch.from_numpy(self.windows.source.batch(step, self.windows.batch_size, rank, world))
        return (
            machine.to_device(tokens, self.windows.device).split(self.windows.micro_batch_size) if len(tokens) else ()
        )

    def halve(self) -> str | None:
        return self.windows.halve()

    def loss(self, model: Transformer, batch: Tensor) -> tuple[Tensor, Tensor]:
        return _sum_and_count(next_token_loss(model, batch), batch[:, 1:].numel())

    def validate(self, model: Transformer, split: Split, processes: Processes = ALONE) -> Validation:
        """The mean loss over all tokens of a split but the first; each process computes a part of them."""
        batches = (torch.from_numpy(windows).to(self.windows.device) for windows in self.windows.of(split))
        return mean_loss(model, self, batches, processes)


class MaskedBatch(NamedTuple):
    """Windows with some of their tokens masked."""

    tokens: Tensor  # (B, T) with the mask, or another token, at some positions
    positions: Tensor  # (B, M) these positions, ascending
    targets: Tensor  # (B, M) the tokens that were there

    def to(self, device: str | torch.device) -> "MaskedBatch":
        return MaskedBatch(*(machine.to_device(tensor, device) for tensor in self))


class SpecialTokens(NamedTuple):
    """The ids of the tokens around a masked model's text, and of the mask."""

    bos: int
    closing: Sequence[int]
    mask: int


@dataclass(frozen=True)
class MaskedToken:
    """Predict masked tokens from all others of their window. Other tokens are masked at each step, drawn from (seed,
    step)."""

    windows: Windows
    special: SpecialTokens
    vocabulary_size: int

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Iterable[MaskedBatch]:
        source, size = self.windows.source, self.windows.batch_size
        # Masked together, whatever the rank: what is masked must not depend on the number of processes.
        masked = self._masked(source.batch(step, size), [source.seed % 2**64, step])
        part = share(size, rank, world)
        if part.start == part.stop:
            return []
        parts = (tensor[part].split(self.windows.micro_batch_size) for tensor in masked)
        return (MaskedBatch(*tensors) for tensors in zip(*parts, strict=True))

    def halve(self) -> str | None:
        return self.windows.halve()

    def loss(self, model: Transformer, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        mean, count = masked_token_loss(model, batch), batch.targets.numel()
        return _sum_and_count(mean if count else mean.nan_to_num(), count)  # the mean of no losses is NaN, their sum 0

    def validate(self, model: Transformer, split: Split, processes: Processes = ALONE) -> Validation:
        """The mean loss over masked tokens of all windows of a split; the same tokens are masked each time. Each
        process computes a part of them."""
        batches = (self._masked(windows, [number]) for number, windows in enumerate(self.windows.of(split)))
        return mean_loss(model, self, batches, processes)

    def _masked(self, windows: NDArray[np.int64], key: Sequence[int]) -> MaskedBatch:
        rng = np.random.default_rng(key)
        return mask_windows(windows, self.special, self.vocabulary_size, rng).to(self.windows.device)


def next_token_loss(model: Transformer, tokens: Tensor) -> Tensor:
    """Equation 14.8 for a batch: the mean over its tokens of -log p(x_{t+1} | x_1..x_t), in nats.

    `tokens` (B, T+1) are windows: the first T are read, the last T predicted.
    """
    return model(tokens[:, :-1], targets=tokens[:, 1:])


def masked_token_loss(model: Transformer, batch: MaskedBatch) -> Tensor:
    """The mean over the masked positions of -log p(the token that was there | all others), in nats."""
    return model(batch.tokens, targets=batch.targets, output_positions=batch.positions)


def mean_loss(
    model: Transformer, objective: Objective[Batch], batches: Iterable[Batch], processes: Processes = ALONE
) -> Validation:
    """The loss over batches of any sizes, of which each process computes every `world`-th."""
    total = count = torch.zeros((), dtype=torch.float64)
    for batch, counts in processes.every_nth(batches):
        part, size = objective.loss(model, batch)
        if counts:
            part, size = part.detach(), size.detach()
            if part.device.type == "mps":  # has no float64
                part, size = part.cpu(), size.cpu()
            total, count = total + part, count + size  # on a GPU it is not waited for
    total, count = processes.sum(total, count)
    return Validation(float(total / count))


def _sum_and_count(mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return mean * count, torch.full((), count, dtype=mean.dtype, device=mean.device)


def mask_windows(
    windows: NDArray[np.int64], special: SpecialTokens, vocabulary_size: int, rng: np.random.Generator
) -> MaskedBatch:
    """Of each window (B, T + 1) mask 15 % of the tokens, never those at its ends: 80 % of these become the mask, 10 % a
    random token, 10 % stay.

    A window's last token is dropped, and the BOS token stands at its beginning, as it does before any text later.
    """
    tokens = windows[:, :-1].copy()
    B, T = tokens.shape
    tokens[:, 0], inner = special.bos, T - len(special.closing)
    tokens[:, inner:] = special.closing
    if inner < 2:  # nothing but its ends
        return MaskedBatch(torch.from_numpy(tokens), *(torch.empty(B, 0, dtype=torch.long) for _ in range(2)))
    count = max(1, round(MASKED_SHARE * (inner - 1)))
    positions = 1 + np.sort(rng.random((B, inner - 1)).argpartition(count - 1, axis=1)[:, :count], axis=1)  # (B, M)
    targets = np.take_along_axis(tokens, positions, axis=1)
    drawn, random_tokens = rng.random(positions.shape), rng.integers(vocabulary_size, size=positions.shape)
    others = np.where(drawn < MASK_TOKEN + RANDOM_TOKEN, random_tokens, targets)
    np.put_along_axis(tokens, positions, np.where(drawn < MASK_TOKEN, special.mask, others), axis=1)
    return MaskedBatch(*map(torch.from_numpy, (tokens, positions, targets)))
