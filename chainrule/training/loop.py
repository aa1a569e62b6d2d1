"""A generator of training steps. Knows no model by name: it is given one, its optimizer, its batches and its loss."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from chainrule.training.optimizer import Optimizer

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Step:
    """What one step was."""

    step: int  # from 1: how many steps have been made
    loss: float  # nats a token, before the step
    gradient_norm: float  # before clipping
    skipped: bool  # the loss or the gradient was not finite, and nothing moved


def train(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[Batch], Tensor],
    *,
    steps: int,
    start: int = 0,
    clip: float = 1.0,
) -> Generator[Step, None, None]:
    """Yield a `Step` after each of steps start+1..steps; whoever iterates logs, saves, samples and stops.

    `batches(step)` gives a step's micro-batches, each whatever `loss` takes; the mean of their gradients moves the
    parameters, so that accumulation equals the full batch (all of one size, or weighed by `loss`). The gradient is
    clipped to a norm of `clip`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step in range(start, steps):
        micro_batches = list(batches(step))
        losses = []
        for batch in micro_batches:
            part = loss(batch)
            (part / len(micro_batches)).backward()
            losses.append(part.detach())
        mean = torch.stack(losses).mean()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        finite = bool(torch.isfinite(mean) & torch.isfinite(norm))
        if finite:
            optimizer.step(step)
        for parameter in parameters:
            parameter.grad = None
        yield Step(step + 1, float(mean), float(norm), not finite)
