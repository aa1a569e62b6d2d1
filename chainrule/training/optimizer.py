"""Muon for matrices, AdamW for the rest, and the learning rate at each step. Knows parameters, not their model.

Muon (Jordan et al., 2024) updates a matrix by its orthogonalised momentum: it learns in fewer steps than AdamW, for
fifteen small matrix products a step. AdamW (Loshchilov and Hutter, 2019) updates embeddings, output, gains and biases.

Shapes: N matrices of one shape, r rows and c columns with r <= c.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from chainrule.model.formats.sharded_file import Part, Parts
from chainrule.model.native import training
from chainrule.training.sharding import local, own_rows


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, constant, then linear decay to 0 over the last `decay` share of the steps.

    A run of fewer steps than `warmup` reaches the peak rate all the same, one of fewer than `least_warmup` does not.
    """

    steps: int
    warmup: int = 20
    decay: float = 0.6
    least_warmup: int = 0

    def __call__(self, step: int) -> float:
        """The factor on the learning rate at a step in 0..steps-1, in (0, 1]."""
        rising = (step + 1) / (max(min(self.warmup, self.steps), self.least_warmup) + 1)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rising, falling)


@dataclass(frozen=True)
class Matrix:
    """A linear map inside a parameter: all its rows, or some of them where a parameter holds several maps (q, k, v)."""

    parameter: nn.Parameter
    start: int
    stop: int

    def of(self, tensor: Tensor) -> Tensor:
        """Its rows of `tensor` (the parameter or its gradient), transposed if there are more rows than columns."""
        rows = tensor[self.start : self.stop]
        return rows if rows.shape[0] <= rows.shape[1] else rows.T

    @property
    def scale(self) -> float:
        """The factor on its updates: √(rows / columns), at least 1."""
        return max(1.0, (self.stop - self.start) / self.parameter.shape[1]) ** 0.5


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, r, c) to matrices with the same singular vectors and singular values near 1: five Newton-Schulz steps."""
    if training.usable(matrices) and matrices.shape[1] * matrices.shape[2] <= training.SMALL_MATRIX:
        return training.orthogonal(matrices)
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT  # (N, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


class MatrixOptimizer(Protocol):
    """What updates the matrices."""

    precision: torch.dtype  # of the Newton-Schulz steps

    def step(self, rate: float, momentum: float, finite: Tensor | None = None) -> None:
        """Update each matrix by its gradient; where `finite` is given and False, nothing changes."""
        ...

    def state(self) -> Mapping[str, Tensor | Parts]:
        """The momentum of all matrices of a shape, (N, r, c) each, by name."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


def by_shape(matrices: Iterable[Matrix]) -> dict[tuple[int, ...], list[Matrix]]:
    """The matrices of each shape (r, c), in their order."""
    stacks: dict[tuple[int, ...], list[Matrix]] = {}
    for matrix in matrices:
        shape = (matrix.stop - matrix.start, matrix.parameter.shape[1])
        stacks.setdefault((min(shape), max(shape)), []).append(matrix)
    return stacks


def momentum_name(shape: Sequence[int]) -> str:
    return f"muon.{'x'.join(map(str, shape))}"


class Muon:
    """Muon for matrices, stacked by shape so that one call updates all of a shape."""

    def __init__(self, matrices: Iterable[Matrix], precision: torch.dtype) -> None:
        """`precision` is that of the Newton-Schulz steps; bfloat16 is enough, where it is fast."""
        self.precision, self.stacks = precision, by_shape(matrices)
        self.momentum = {
            shape: torch.zeros(len(stack), *shape, device=stack[0].parameter.device)
            for shape, stack in self.stacks.items()
        }
        self.scales = {  # (N, 1, 1); made once: a GPU is waited for when numbers are sent to it
            shape: torch.tensor([matrix.scale for matrix in stack], device=stack[0].parameter.device)[:, None, None]
            for shape, stack in self.stacks.items()
        }

    @torch.no_grad()
    def step(self, rate: float, momentum: float, finite: Tensor | None = None) -> None:
        for shape, stack in self.stacks.items():
            gradients = torch.stack(
                [matrix.of(matrix.parameter.grad) for matrix in stack if matrix.parameter.grad is not None]
            )
            moves = nesterov(gradients, self.momentum[shape], momentum, finite)
            updates = orthogonal(moves.to(self.precision)).float()
            scales = self.scales[shape]
            moved = [matrix.of(matrix.parameter) for matrix in stack]
            updates.mul_(scales if finite is None else scales * finite)
            torch._foreach_add_(moved, list(updates.unbind()), alpha=-rate)

    def state(self) -> dict[str, Tensor]:
        return {momentum_name(shape): tensor for shape, tensor in self.momentum.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for shape, momentum in self.momentum.items():
            momentum.copy_(state[momentum_name(shape)])


def nesterov(gradients: Tensor, average: Tensor, momentum: float, finite: Tensor | None) -> Tensor:
    """What Muon orthogonalises: the gradient and its running average, which is updated; where `finite` is given and
    False, the average stays as it is."""
    weight: float | Tensor = 1 - momentum
    if finite is not None:  # decided on the device, which nobody waits for
        gradients, weight = torch.where(finite, gradients, 0.0), finite * weight
    return gradients.lerp(average.lerp_(gradients, weight), momentum)


@dataclass(frozen=True)
class Group:
    """Parameters that AdamW updates with the same rate and decay."""

    parameters: Sequence[nn.Parameter]
    rate: float
    decay: float = 0.0  # decoupled weight decay, per unit of learning rate


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) by PyTorch's fused kernel; importing torch.optim takes seconds."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {
            parameter: {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(local(parameter.detach())),
                "exp_avg_sq": torch.zeros_like(local(parameter.detach())),
            }
            for group in groups
            for parameter in group.parameters
        }

    @torch.no_grad()
    def step(self, factor: float, finite: Tensor | None = None) -> None:
        """Update every parameter that has a gradient; `factor` multiplies each group's rate. Where `finite` is given
        and False, nothing changes."""
        unusable = None if finite is None else (~finite).float()
        for group in self.groups:
            moved = [parameter for parameter in group.parameters if parameter.grad is not None]
            if not moved:
                continue
            steps, averages, squares = (
                [self.state[parameter][name] for parameter in moved] for name in ("step", "exp_avg", "exp_avg_sq")
            )
            torch._foreach_add_(steps, 1)
            gradients = [local(parameter.grad) for parameter in moved if parameter.grad is not None]
            torch._fused_adamw_(
                [local(parameter) for parameter in moved], gradients, averages, squares, [], steps,
                lr=group.rate * factor, beta1=0.9, beta2=0.95, weight_decay=group.decay, eps=1e-10,
                amsgrad=False, maximize=False, found_inf=unusable,
            )  # fmt: skip
            if unusable is not None:
                torch._foreach_sub_(steps, [unusable] * len(steps))


class Optimizer:
    """Muon for `matrices` and AdamW for `groups`, with one schedule. Its state is saved under the parameters' `names`.

    `precision` is that of Muon's matrix products; weights and state are float32. `muon`: what updates the matrices,
    where several processes do it together.
    """

    def __init__(
        self,
        names: Mapping[nn.Parameter, str],
        matrices: Sequence[Matrix],
        matrix_rate: float,
        groups: Sequence[Group],
        schedule: Schedule,
        precision: torch.dtype = torch.float32,
        muon: MatrixOptimizer | None = None,
    ) -> None:
        # The fused kernel goes through memory in order: a parameter and its saved state must have the same layout.
        assert all(local(parameter).is_contiguous() for parameter in names), "an optimizer's parameters are contiguous"
        self.names, self.matrix_rate, self.schedule = names, matrix_rate, schedule
        self.muon: MatrixOptimizer = muon or Muon(matrices, precision)
        self.adamw = AdamW(groups)

    def rate(self, step: int) -> float:
        """The learning rate of the matrices at a step."""
        return self.matrix_rate * self.schedule(step)

    def step(self, step: int, finite: Tensor | None = None) -> None:
        """Update every parameter by its gradient; `step` counts from 0. Where `finite` is given and False, none."""
        factor = self.schedule(step)
        self.muon.step(self.rate(step), 0.85 + 0.1 * min(1.0, step / 200), finite)
        self.adamw.step(factor, finite)

    def state(self) -> dict[str, Tensor | Parts]:
        """Moments and step counts, as named tensors; of parameters that are cut, what this process has."""
        state = dict(self.muon.state())
        for parameter, tensors in self.adamw.state.items():
            state |= {
                f"adamw.{self.names[parameter]}.{key}": part_of(parameter, value) for key, value in tensors.items()
            }
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned, or the whole of it; the optimizer must be made for the same parameters."""
        self.muon.load_state(state)
        for parameter, tensors in self.adamw.state.items():
            for key, tensor in tensors.items():
                saved = state.get(f"adamw.{self.names[parameter]}.{key}")
                if saved is not None:  # earlier versions did not save parameters that never had a gradient
                    tensor.copy_(saved[slice(*own_rows(parameter))] if tensor.ndim else saved)


def part_of(parameter: Tensor, value: Tensor) -> Tensor | Parts:
    """A tensor that has a number for each of this process's of a parameter, as a part of the whole; other tensors, and
    those of a parameter that is not cut, as they are."""
    if not hasattr(parameter, "to_local") or not value.ndim:
        return value
    first, _ = own_rows(parameter)
    return Parts(tuple(parameter.shape), value.dtype, [Part((first, *(0,) * (value.ndim - 1)), value)])
