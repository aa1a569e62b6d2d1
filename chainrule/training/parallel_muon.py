"""Muon where several processes train: each whole matrix is orthogonalised by one of them.

Knows matrices and the processes. Where every process has all the rows of the parameters (`ReplicatedMuon`), the updates
are sent to all; where each has some (`ShardedMuon`), the rows of a matrix travel to the one that orthogonalises it, and
its update's rows travel back.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from chainrule.model.formats.sharded_file import Part, Parts
from chainrule.training.optimizer import Matrix, Muon, by_shape, momentum_name, nesterov, orthogonal
from chainrule.training.parallel import Processes
from chainrule.training.sharding import local, rows_of


def owners(shapes: Sequence[tuple[int, ...]], world: int) -> list[int]:
    """The process that orthogonalises each matrix: the largest first, to the process with the least work so far."""
    work, found = [0] * world, [0] * len(shapes)

    def operations(index: int) -> int:
        return min(shapes[index]) ** 2 * max(shapes[index])

    for index in sorted(range(len(shapes)), key=lambda index: (-operations(index), index)):
        found[index] = min(range(world), key=lambda rank: (work[rank], rank))
        work[found[index]] += operations(index)
    return found


def orthogonal_each(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of matrices (r, c) of any shapes with r <= c, those of a shape in one call."""
    stacks: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        stacks.setdefault(matrix.shape, []).append(index)
    found = list(matrices)
    for indices in stacks.values():
        for index, made in zip(indices, orthogonal(torch.stack([matrices[index] for index in indices])), strict=True):
            found[index] = made
    return found


class ReplicatedMuon:
    """Muon where each process has all of the matrices and of their momentum."""

    def __init__(self, matrices: Iterable[Matrix], precision: torch.dtype, processes: Processes) -> None:
        self.alone, self.processes = Muon(matrices, precision), processes
        shapes = [shape for shape, stack in self.alone.stacks.items() for _ in stack]
        self.owners = owners(shapes, processes.world)
        sizes = [sum(r * c for (r, c), owner in zip(shapes, self.owners, strict=True) if owner == rank)
                 for rank in range(processes.world)]  # fmt: skip
        self.most = max(sizes, default=0)

    @property
    def precision(self) -> torch.dtype:
        return self.alone.precision

    @precision.setter
    def precision(self, value: torch.dtype) -> None:
        self.alone.precision = value

    @torch.no_grad()
    def step(self, rate: float, momentum: float, finite: Tensor | None = None) -> None:
        matrices = [(matrix, index, shape) for shape, stack in self.alone.stacks.items()
                    for index, matrix in enumerate(stack)]  # fmt: skip
        if not matrices:
            return
        moves: list[Tensor] = []
        for (matrix, index, shape), owner in zip(matrices, self.owners, strict=True):
            assert matrix.parameter.grad is not None
            move = nesterov(matrix.of(matrix.parameter.grad), self.alone.momentum[shape][index], momentum, finite)
            if owner == self.processes.rank:
                moves.append(move.to(self.precision))
        mine = [update.flatten() for update in orthogonal_each(moves)]
        device = matrices[0][0].parameter.device
        mine.append(torch.zeros(self.most - sum(map(len, mine)), dtype=self.precision, device=device))
        every = torch.empty(self.processes.world, self.most, dtype=self.precision, device=device)
        torch.distributed.all_gather(list(every.unbind()), torch.cat(mine))
        used = [0] * self.processes.world
        for (matrix, _, (r, c)), owner in zip(matrices, self.owners, strict=True):
            update = every[owner, used[owner] : used[owner] + r * c].view(r, c).float()
            used[owner] += r * c
            update = update if finite is None else update * finite
            matrix.of(matrix.parameter).add_(update, alpha=-rate * matrix.scale)

    def state(self) -> dict[str, Tensor]:
        return self.alone.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.alone.load_state(state)


class ShardedMuon:
    """Muon where each process has some rows of each matrix and of its momentum."""

    def __init__(self, matrices: Iterable[Matrix], precision: torch.dtype, processes: Processes) -> None:
        self.precision, self.processes = precision, processes
        self.stacks = by_shape(matrices)
        self.matrices = [matrix for stack in self.stacks.values() for matrix in stack]
        self.owners = owners([shape for shape, stack in self.stacks.items() for _ in stack], processes.world)
        self.rows = [_rows(matrix, processes.world) for matrix in self.matrices]
        self.momentum = [torch.zeros_like(self._own(matrix, matrix.parameter.detach())) for matrix in self.matrices]

    def _own(self, matrix: Matrix, tensor: Tensor) -> Tensor:
        """The rows of the matrix that this process has of the parameter or its gradient."""
        first, stop = rows_of(matrix.parameter.shape[0], self.processes.rank, self.processes.world)
        low, high = max(first, matrix.start), min(stop, matrix.stop)
        return local(tensor)[low - first : max(low, high) - first]

    @torch.no_grad()
    def step(self, rate: float, momentum: float, finite: Tensor | None = None) -> None:
        if not self.matrices:
            return
        moves = []
        for matrix, average in zip(self.matrices, self.momentum, strict=True):
            assert matrix.parameter.grad is not None
            move = nesterov(self._own(matrix, matrix.parameter.grad), average, momentum, finite)
            moves.append(move.to(self.precision))
        for matrix, update in zip(self.matrices, self._orthogonal(moves), strict=True):
            update = update.float() if finite is None else update.float() * finite
            self._own(matrix, matrix.parameter).add_(update, alpha=-rate * matrix.scale)

    def _orthogonal(self, moves: Sequence[Tensor]) -> list[Tensor]:
        """This process's rows of the orthogonalised matrices."""
        rank, world = self.processes.rank, self.processes.world
        mine = [index for index, owner in enumerate(self.owners) if owner == rank]
        of_rank = [[index for index, owner in enumerate(self.owners) if owner == other] for other in range(world)]
        columns = [matrix.parameter.shape[1] for matrix in self.matrices]
        there = [[(self.rows[index][other][1] - self.rows[index][other][0]) * columns[index] for index in mine]
                 for other in range(world)]  # fmt: skip
        here = [[moves[index].numel() for index in indices] for indices in of_rank]
        received = _exchange([moves[index] for indices in of_rank for index in indices], here, there, moves[0])
        parts = [part.split(sizes) for part, sizes in zip(received, there, strict=True)]
        wholes = []
        for number, index in enumerate(mine):
            rows = torch.cat([parts[other][number].view(-1, columns[index]) for other in range(world)])
            wholes.append(rows if rows.shape[0] <= rows.shape[1] else rows.T)
        updates = []
        for index, update in zip(mine, orthogonal_each(wholes), strict=True):
            tall = self.matrices[index].stop - self.matrices[index].start > columns[index]
            updates.append(update.T if tall else update)
        back = [update[slice(*self.rows[index][other])]
                for other in range(world) for index, update in zip(mine, updates, strict=True)]  # fmt: skip
        found = list(moves)
        for indices, part, sizes in zip(of_rank, _exchange(back, there, here, moves[0]), here, strict=True):
            for index, rows in zip(indices, part.split(sizes), strict=True):
                found[index] = rows.view_as(moves[index])
        return found

    def state(self) -> dict[str, Parts]:
        found: dict[str, Parts] = {}
        momentum, rows = iter(self.momentum), iter(self.rows)
        for shape, stack in self.stacks.items():
            parts = []
            for index, matrix in enumerate(stack):
                average, (first, _) = next(momentum), next(rows)[self.processes.rank]
                tall = matrix.stop - matrix.start > matrix.parameter.shape[1]
                start = (index, 0, first) if tall else (index, first, 0)
                parts.append(Part(start, (average.T if tall else average)[None]))
            found[momentum_name(shape)] = Parts((len(stack), *shape), torch.float32, parts)
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        momentum, rows = iter(self.momentum), iter(self.rows)
        for shape, stack in self.stacks.items():
            for index, matrix in enumerate(stack):
                saved = state[momentum_name(shape)][index]
                tall = matrix.stop - matrix.start > matrix.parameter.shape[1]
                next(momentum).copy_((saved.T if tall else saved)[slice(*next(rows)[self.processes.rank])])


def _rows(matrix: Matrix, world: int) -> list[tuple[int, int]]:
    """The rows of the matrix that each process has, counted from the matrix's first."""
    found = []
    for rank in range(world):
        first, stop = rows_of(matrix.parameter.shape[0], rank, world)
        low = min(max(first, matrix.start), matrix.stop)
        found.append((low - matrix.start, max(low, min(stop, matrix.stop)) - matrix.start))
    return found


def _exchange(
    sent: Sequence[Tensor], here: Sequence[Sequence[int]], there: Sequence[Sequence[int]], like: Tensor
) -> tuple[Tensor, ...]:
    """Send tensors to the processes in turn, `here` the numbers each gets; what came from each, `there` its numbers."""
    flat = torch.cat([like.new_empty(0), *(tensor.flatten() for tensor in sent)])
    sizes = [sum(part) for part in there]
    received = torch.empty(sum(sizes), dtype=flat.dtype, device=flat.device)
    torch.distributed.all_to_all_single(received, flat, sizes, [sum(part) for part in here])
    return received.split(sizes)
