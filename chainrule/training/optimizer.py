"""Muon for matrices, AdamW for the rest, and the learning rate at each step. Knows parameters, not their model.

Muon (Jordan et al., 2024) updates a matrix by its orthogonalised momentum: it learns in fewer steps than AdamW, for
fifteen small matrix products a step. AdamW (Loshchilov and Hutter, 2019) updates embeddings, output, gains and biases.

Shapes: N matrices of one shape, r rows and c columns with r <= c.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, constant, then linear decay to 0 over the last `decay` share of the steps."""

    steps: int
    warmup: int = 20
    decay: float = 0.6

    def __call__(self, step: int) -> float:
        """The factor on the learning rate at a step in 0..steps-1, in (0, 1]."""
        rising = (step + 1) / (min(self.warmup, self.steps) + 1)
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
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT  # (N, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


class Muon:
    """Muon for matrices, stacked by shape so that one call updates all of a shape."""

    def __init__(self, matrices: Iterable[Matrix], precision: torch.dtype) -> None:
        """`precision` is that of the Newton-Schulz steps; bfloat16 is enough, where it is fast."""
        self.precision = precision
        self.stacks: dict[tuple[int, ...], list[Matrix]] = {}
        for matrix in matrices:
            self.stacks.setdefault(tuple(matrix.of(matrix.parameter).shape), []).append(matrix)
        self.momentum = {
            shape: torch.zeros(len(stack), *shape, device=stack[0].parameter.device)
            for shape, stack in self.stacks.items()
        }

    @torch.no_grad()
    def step(self, rate: float, momentum: float) -> None:
        for shape, stack in self.stacks.items():
            gradients = torch.stack(
                [matrix.of(matrix.parameter.grad) for matrix in stack if matrix.parameter.grad is not None]
            )
            average = self.momentum[shape].lerp_(gradients, 1 - momentum)
            updates = orthogonal(gradients.lerp_(average, momentum).to(self.precision)).float()  # Nesterov
            scales = torch.tensor([matrix.scale for matrix in stack], device=updates.device)
            moved = [matrix.of(matrix.parameter) for matrix in stack]
            torch._foreach_add_(moved, list(updates.mul_(scales[:, None, None]).unbind()), alpha=-rate)


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
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
            for group in groups
            for parameter in group.parameters
        }

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update every parameter that has a gradient; `factor` multiplies each group's rate."""
        for group in self.groups:
            moved = [parameter for parameter in group.parameters if parameter.grad is not None]
            if not moved:
                continue
            steps, averages, squares = (
                [self.state[parameter][name] for parameter in moved] for name in ("step", "exp_avg", "exp_avg_sq")
            )
            torch._foreach_add_(steps, 1)
            gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
            torch._fused_adamw_(
                list[Tensor](moved), gradients, averages, squares, [], steps, lr=group.rate * factor,
                beta1=0.9, beta2=0.95, weight_decay=group.decay, eps=1e-10,
                amsgrad=False, maximize=False,
            )  # fmt: skip


class Optimizer:
    """Muon for `matrices` and AdamW for `groups`, with one schedule. Its state is saved under the parameters' `names`.

    `precision` is that of Muon's matrix products; weights and state are float32.
    """

    def __init__(
        self,
        names: Mapping[nn.Parameter, str],
        matrices: Sequence[Matrix],
        matrix_rate: float,
        groups: Sequence[Group],
        schedule: Schedule,
        precision: torch.dtype = torch.float32,
    ) -> None:
        # The fused kernel goes through memory in order: a parameter and its saved state must have the same layout.
        assert all(parameter.is_contiguous() for parameter in names), "an optimizer's parameters are contiguous"
        self.names, self.matrix_rate, self.schedule = names, matrix_rate, schedule
        self.muon, self.adamw = Muon(matrices, precision), AdamW(groups)

    def rate(self, step: int) -> float:
        """The learning rate of the matrices at a step."""
        return self.matrix_rate * self.schedule(step)

    def step(self, step: int) -> None:
        """Update every parameter by its gradient; `step` counts from 0."""
        factor = self.schedule(step)
        self.muon.step(self.rate(step), momentum=0.85 + 0.1 * min(1.0, step / 200))
        self.adamw.step(factor)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, as named tensors."""
        state = {f"muon.{'x'.join(map(str, shape))}": tensor for shape, tensor in self.muon.momentum.items()}
        for parameter, tensors in self.adamw.state.items():
            state |= {f"adamw.{self.names[parameter]}.{key}": value for key, value in tensors.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; the optimizer must be made for the same parameters."""
        for shape, momentum in self.muon.momentum.items():
            momentum.copy_(state[f"muon.{'x'.join(map(str, shape))}"])
        for parameter, tensors in self.adamw.state.items():
            for key, tensor in tensors.items():
                saved = state.get(f"adamw.{self.names[parameter]}.{key}")
                if saved is not None:  # earlier versions did not save parameters that never had a gradient
                    tensor.copy_(saved)
