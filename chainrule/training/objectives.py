"""What pretraining minimises: the next token (14.8), or masked tokens (Devlin et al., 2019). Knows a model and tokens,
not where they come from.

Shapes: B windows, T positions, M of them blanks, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.model.transformer import Transformer

Windows = NDArray[np.int64]  # (B, T+1)
SHARE = 0.15  # of a window's tokens that are to be told
MASKED, REPLACED = 0.8, 0.1  # of these: shares that the mask stands for, or any token; the others stay


def next_token_loss(model: Transformer, tokens: Tensor) -> Tensor:
    """Equation 14.8 for a batch: the mean over its tokens of -log p(x_{t+1} | x_1..x_t), in nats.

    `tokens` (B, T+1) are windows: the first T are read, the last T predicted.
    """
    return model(tokens[:, :-1], targets=tokens[:, 1:])


def masked_token_loss(model: Transformer, tokens: Tensor, places: Tensor, targets: Tensor) -> Tensor:
    """The mean over blanks of -log p(what stood there | the rest), in nats; the tensors are those of `Blanks`."""
    return model(tokens, targets=targets, output_positions=places)


class Blanks(NamedTuple):
    """Windows with something else in some of their places, and what stood there."""

    tokens: Tensor  # (B, T)
    places: Tensor  # (B, M) ascending
    targets: Tensor  # (B, M)


class Marks(NamedTuple):
    """The special tokens around a masked model's text, and in it."""

    bottom: int
    closing: Sequence[int]
    mask: int


def blanks(windows: Windows, marks: Marks, vocabulary_size: int, rng: np.random.Generator) -> Blanks:
    """Of each window 15 % of the tokens, never those at its ends: 80 % of these are masked, 10 % are any token, 10 %
    stay.

    A window's last token is not read, and where it begins ⊥ stands, as in front of any text that is read later.
    """
    tokens = windows[:, :-1].copy()
    B, T = tokens.shape
    tokens[:, 0], inner = marks.bottom, T - len(marks.closing)
    tokens[:, inner:] = marks.closing
    if inner < 2:  # nothing but its ends
        return Blanks(torch.from_numpy(tokens), *(torch.empty(B, 0, dtype=torch.long) for _ in range(2)))
    count = max(1, round(SHARE * (inner - 1)))
    places = 1 + np.sort(rng.random((B, inner - 1)).argpartition(count - 1, axis=1)[:, :count], axis=1)  # (B, M)
    targets = np.take_along_axis(tokens, places, axis=1)
    fate, any_token = rng.random(places.shape), rng.integers(vocabulary_size, size=places.shape)
    put = np.where(fate < MASKED, marks.mask, np.where(fate < MASKED + REPLACED, any_token, targets))
    np.put_along_axis(tokens, places, put, axis=1)
    return Blanks(*map(torch.from_numpy, (tokens, places, targets)))


class Objective(NamedTuple):
    """How windows become a batch, and a batch a loss."""

    name: Literal["next", "masked"]
    batch: Callable[[Windows, Sequence[int]], tuple[Tensor, ...]]  # windows (B, ...), and the key of what is drawn
    loss: Callable[..., Tensor]  # of the model and a batch's tensors: the mean over what is predicted, in nats
    predicted: Callable[[tuple[Tensor, ...]], int]  # how many tokens of a batch that is


NEXT_TOKEN = Objective(
    "next", lambda windows, key: (torch.from_numpy(windows),), next_token_loss, lambda batch: batch[0][:, 1:].numel()
)


def masked_token(marks: Marks, vocabulary_size: int) -> Objective:
    """The masked objective: what is masked is a function of the key, drawn anew for each."""
    return Objective(
        "masked",
        lambda windows, key: blanks(windows, marks, vocabulary_size, np.random.default_rng(key)),
        masked_token_loss,
        lambda batch: batch[-1].numel(),
    )
