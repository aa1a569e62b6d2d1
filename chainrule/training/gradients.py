"""The gradients of a step, of weights that are whole or cut among processes: added up and clipped. Knows an objective
and processes, no optimizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.training.objectives import Objective
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.sharding import local
from chainrule.training.stopping import Passes


def accumulate(
    model: nn.Module, objective: Objective[Any], step: int, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a step's summed loss to the parameters, micro-batch by micro-batch; the sum and the count.

    Gradients, sums and counts of all ranks add up to those of a single process.
    """
    total = count = torch.zeros(())
    for batch in objective.batches(step, rank, world):
        part, size = objective.loss(model, batch)
        part.backward()
        total, count = total + part.detach(), count + size
    return total, count


def accumulate_cut(
    model: Any, objective: Objective[Any], step: int, passes_of_all: Passes, once_a_step: bool
) -> tuple[Tensor, Tensor]:
    """`accumulate` where each process has a part of the weights, which are put together by all: each process makes as
    many passes as the one with the most. `once_a_step`: gradients are sent after the last pass, not after each."""
    processes = passes_of_all.processes
    batches = list(objective.batches(step, processes.rank, processes.world))
    passes = processes.largest(len(batches))
    total = count = torch.zeros((), device=next(model.parameters()).device)
    with passes_of_all.together():
        for number in range(passes):
            model.set_requires_gradient_sync(number + 1 == passes or not once_a_step)
            part, size = objective.loss(model, batches[min(number, len(batches) - 1)])
            if number >= len(batches):
                part, size = part * 0, size * 0
            part.backward()
            total, count = total + part.detach(), count + size
    return total, count


def clip_mean(
    parameters: Sequence[nn.Parameter], count: Tensor, limit: float, processes: Processes = ALONE, *, cut: bool = False
) -> Tensor:
    """Turn the gradients of a sum of `count` losses into those of their mean, with a norm of at most `limit`.

    The gradients of all processes are added up before, but where weights are `cut`: there fully_shard has done so.
    Returns the norm of the mean's gradient before clipping. Mean and limit are one multiplication, so one pass.
    """
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if cut:
        count = count / processes.world  # fully_shard divides the sum by the number of processes
        (squares,) = processes.sum(torch.stack(torch._foreach_norm(gradients)).square().sum())
        norm = squares.sqrt() / count
    else:
        processes.add_up(gradients)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) / count
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0) / count)
    return norm
